"""The operations of `altup` in torch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import torch

from ovround.models.parts import altup

if TYPE_CHECKING:
    from ovround.models.torch_ops import TorchOps


def compute(ops: TorchOps, verb: Any, inputs: Sequence[torch.Tensor], layer: int) -> torch.Tensor:
    out: torch.Tensor = _OPERATIONS[type(verb)](verb, *inputs)
    return out


def _take(verb: altup.TakeStream, x: torch.Tensor) -> torch.Tensor:
    stream: torch.Tensor = x.unflatten(-1, (verb.count, -1))[..., verb.index, :]
    return stream


def _join(verb: altup.JoinStreams, *streams: torch.Tensor) -> torch.Tensor:
    return torch.cat(streams, -1)


def _mix(verb: altup.MixStreams, x: torch.Tensor, coefficients: torch.Tensor) -> torch.Tensor:
    rows = coefficients.to(x.dtype).unflatten(-1, (verb.count, verb.count))
    mixed: torch.Tensor = (rows @ x.unflatten(-1, (verb.count, -1))).flatten(-2)
    return x + mixed


def _correct(
    verb: altup.CorrectStreams, x: torch.Tensor, innovation: torch.Tensor, coefficients: torch.Tensor
) -> torch.Tensor:
    return x + ((coefficients + 1).unsqueeze(-1) * innovation.unsqueeze(-2)).flatten(-2)


def _add(verb: altup.AddToOthers, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    return x + torch.cat([torch.zeros_like(y), *([y] * (verb.count - 1))], -1)


def _match(verb: altup.MatchMagnitude, y: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    wanted, has = (value.square().mean(-1, keepdim=True) for value in (x, y))
    return y * wanted.sqrt() / has.clamp(min=altup.LEAST).sqrt()


_OPERATIONS: dict[type, Callable[..., torch.Tensor]] = {
    altup.TakeStream: _take,
    altup.JoinStreams: _join,
    altup.MixStreams: _mix,
    altup.CorrectStreams: _correct,
    altup.AddToOthers: _add,
    altup.MatchMagnitude: _match,
}
