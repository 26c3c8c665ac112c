"""`convert_from_uint4`: how Gaudi turns packed 4-bit weights into floating point, inside the graph that multiplies them.

    words int32 [..., N/8], scale, zero_point or None, dtype  ->  [..., N]: (q - zero_point) * scale

Number 8j + i of the last axis is bits 4i to 4i + 3 of word j. `scale` has the shape of the result, but for one axis that
its own divides: one value a group there. `zero_point` is None (0), packed like the numbers, or of the scale's type and
shape. Stated by the plugin's sources (gaudi-pytorch-bridge); its versions take 4 or 6 arguments, so the schema is asked.

The emulated operator computes the same on any device; it is never registered under the plugin's name.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch

from ovround.errors import EngineError

Convert = Callable[[torch.Tensor, torch.Tensor, torch.Tensor | None, torch.dtype], torch.Tensor]
NUMBERS = 8  # a word
_ARGUMENTS = 4
NAME = "convert_from_uint4"


def unpack(words: torch.Tensor) -> torch.Tensor:
    """int32 words `[..., N/8]` as int32 numbers `[..., N]` of 0 to 15."""
    shifts = torch.arange(0, 4 * NUMBERS, 4, dtype=torch.int32, device=words.device)
    return ((words.unsqueeze(-1) >> shifts) & 15).flatten(-2)


def pack(numbers: torch.Tensor) -> torch.Tensor:
    """Undo `unpack`: numbers `[..., N]`, N a multiple of 8, as int32 words `[..., N/8]`."""
    parts = numbers.to(torch.int64).unflatten(-1, (-1, NUMBERS))
    shifts = torch.arange(0, 4 * NUMBERS, 4, dtype=torch.int64, device=numbers.device)
    words = (parts << shifts).sum(-1)
    return torch.where(words >= 1 << 31, words - (1 << 32), words).to(torch.int32)


def _whole(values: torch.Tensor, shape: torch.Size) -> torch.Tensor:
    """One value a group as one a number: repeated along the one axis that differs."""
    for axis, (ours, theirs) in enumerate(zip(values.shape, shape, strict=True)):
        if ours != theirs:
            return values.repeat_interleave(theirs // ours, dim=axis)
    return values


@torch.library.custom_op("ovround::convert_from_uint4", mutates_args=())
def emulated(
    words: torch.Tensor, scale: torch.Tensor, zero_point: torch.Tensor | None, dtype: torch.dtype
) -> torch.Tensor:
    """The operator's arithmetic: whole numbers are subtracted as such, and the product rounded once."""
    numbers = unpack(words)
    if zero_point is None:
        levels = numbers.to(scale.dtype)
    elif zero_point.dtype == torch.int32:
        levels = (numbers - _whole(unpack(zero_point), numbers.shape)).to(scale.dtype)
    else:
        levels = numbers.to(scale.dtype) - _whole(zero_point, numbers.shape)
    return (levels * _whole(scale, numbers.shape)).to(dtype)


@emulated.register_fake
def _(words: torch.Tensor, scale: torch.Tensor, zero_point: torch.Tensor | None, dtype: torch.dtype) -> torch.Tensor:
    return torch.empty((*words.shape[:-1], words.shape[-1] * NUMBERS), dtype=dtype, device=words.device)


def device_operator() -> Convert:
    """The plugin's own operator, called as its schema asks; raises EngineError where it is missing or asks for more.

    It is called directly, not through a registered function of ours, so that the graph compiler sees it.
    """
    operator = getattr(getattr(torch.ops.hpu, NAME, None), "default", None)
    if operator is None:
        raise EngineError(f"PyTorch's HPU plugin has no {NAME}", hint="Gaudi software 1.17 or later has it")
    more: list[object] = []
    for argument in operator._schema.arguments[_ARGUMENTS:]:
        kind = str(argument.type)
        if argument.has_default_value():
            break
        if not kind.startswith("Optional") and kind != "bool":
            raise EngineError(f"{NAME} of this HPU plugin asks for `{argument.name}`: {operator._schema}")
        more.append(False if kind == "bool" else None)

    def convert(
        words: torch.Tensor, scale: torch.Tensor, zero_point: torch.Tensor | None, dtype: torch.dtype
    ) -> torch.Tensor:
        weight: torch.Tensor = operator(words, scale, zero_point, dtype, *more)
        return weight

    return convert


@dataclass(frozen=True, slots=True)
class KnownAnswer:
    """Arguments of the operator and what it must give, float32; every value is one that bfloat16 holds."""

    name: str
    words: torch.Tensor
    scale: torch.Tensor
    zero_point: torch.Tensor | None
    answer: torch.Tensor


def known_answers() -> list[KnownAnswer]:
    """Small cases in numpy, each of which one misreading of the operator gets wrong."""
    random = np.random.default_rng(0)

    def case(name: str, inputs: int, outputs: int, groups: int, zero: str, axis: int = 0) -> KnownAnswer:
        shape = (inputs, outputs) if axis == 0 else (outputs, inputs)
        few = (groups, outputs) if axis == 0 else (outputs, groups)
        numbers = random.integers(0, 16, shape)
        scale = (2.0 ** random.integers(-3, 3, few)).astype(np.float32)
        zeros = {
            "none": np.zeros(few, np.int64),
            "packed": random.integers(0, 16, few),
            "float": random.integers(0, 16, few),
        }
        repeat = inputs // groups
        answer = (numbers - np.repeat(zeros[zero], repeat, axis)) * np.repeat(scale, repeat, axis)
        words = pack(torch.from_numpy(numbers))
        point = torch.from_numpy(zeros[zero])
        given = {"none": None, "packed": pack(point) if zero == "packed" else None, "float": point.float()}[zero]
        return KnownAnswer(name, words, torch.from_numpy(scale), given, torch.from_numpy(answer.astype(np.float32)))

    order = KnownAnswer(
        "order of the numbers", torch.tensor([[0x76543210]], dtype=torch.int32), torch.ones(1, 8), None,
        torch.arange(8.0)[None],
    )  # fmt: skip
    below = KnownAnswer(
        "numbers below the zero point", torch.zeros(2, 1, dtype=torch.int32), torch.full((1, 8), 0.5),
        pack(torch.full((1, 8), 8)), torch.full((2, 8), -4.0),
    )  # fmt: skip
    return [
        order, below, case("no zero point", 32, 16, 2, "none"), case("packed zero points", 64, 16, 4, "packed"),
        case("zero points as numbers", 64, 16, 4, "float"), case("one group", 64, 24, 1, "packed"),
        case("groups along the last axis", 64, 5, 2, "float", axis=1),
    ]  # fmt: skip


def wrong_answers(convert: Convert, device: str, dtype: torch.dtype) -> list[str]:
    """The names of the known answers that `convert` on `device` does not give exactly."""
    wrong = []
    for case in known_answers():
        zero = case.zero_point
        if zero is not None:
            zero = zero.to(device) if zero.dtype == torch.int32 else zero.to(device, dtype)
        answer = convert(case.words.to(device), case.scale.to(device, dtype), zero, dtype)
        if not torch.equal(answer.float().cpu(), case.answer):
            wrong.append(case.name)
    return wrong
