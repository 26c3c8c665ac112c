"""Tuning steps compiled by torch, with their gradients: element-wise operations between products are fused."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import torch

from ovround.errors import EngineError

_AWAY_FROM_UNDERFLOW = 1000.0
# Values are rounded to bfloat16 and float16 at the same places as without a compiler; otherwise losses were 2 % higher.
_OPTIONS: dict[str, str | int | bool | Callable[..., Any]] = {"emulate_precision_casts": True}

Loss = Callable[..., torch.Tensor]
"""Tensors of a batch -> a block's error."""
Differentiate = Callable[..., None]


@contextlib.contextmanager
def differentiated(loss: Loss, compiles: bool) -> Iterator[Differentiate]:
    """A function that adds the gradient of `loss` to its parameters; it is compiled at its first call if `compiles`.

    Gradients are scaled away from underflow, since only their ratios count. Compiled code is dropped in the end, because torch
    keeps that of a few blocks only. Raises EngineError where it cannot be compiled.
    """
    if not compiles:
        yield lambda *batch: (loss(*batch) * _AWAY_FROM_UNDERFLOW).backward()
        return
    fused: Loss | None = None

    def differentiate(*batch: torch.Tensor) -> None:
        nonlocal fused
        if fused is not None:
            (fused(*batch) * _AWAY_FROM_UNDERFLOW).backward()
            return
        with warnings.catch_warnings(), _explained():
            warnings.simplefilter("ignore")  # torch warns about its own code
            fused = torch.compile(loss, dynamic=False, options=_OPTIONS)
            (fused(*batch) * _AWAY_FROM_UNDERFLOW).backward()

    try:
        yield differentiate
    finally:
        torch.compiler.reset()


@contextlib.contextmanager
def _explained() -> Iterator[None]:
    try:
        yield
    except Exception as error:
        if not type(error).__module__.startswith(("torch._dynamo", "torch._inductor")):
            raise
        raise EngineError(
            f"torch could not compile a tuning step: {str(error).strip()}",
            hint='`compile = "off"` in the file of --tuning; what was tuned without it is not continued with it',
        ) from error
