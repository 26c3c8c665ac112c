"""Weights that are initialised together, their rows stacked, start as each would alone."""

from __future__ import annotations

import pytest
import torch

from ovround.quant.passes import init_weights
from ovround.quant.passes.init_weights import _stacks, _start
from ovround.tensors.scheme import QuantScheme


def drawn(*shape: int, seed: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_small_weights_with_one_input_and_one_scheme_are_stacked(monkeypatch: pytest.MonkeyPatch) -> None:
    four, two = QuantScheme(4, 16, True), QuantScheme(2, 16, True)
    shared, other = torch.eye(16), torch.eye(16)
    hessians = {"q": shared, "k": shared, "v": shared, "o": other, "gate": shared}
    schemes = {"q": four, "k": four, "v": two, "o": two, "gate": two, "unseen": two, "unseen too": two}
    matrices = {name: torch.zeros(8, 16) for name in schemes}
    assert _stacks(schemes, matrices, hessians) == [["q", "k"], ["v"], ["o"], ["gate"], ["unseen"], ["unseen too"]]
    monkeypatch.setattr(init_weights, "_STACKED", 8 * 16)
    assert all(len(stack) == 1 for stack in _stacks(schemes, matrices, hessians))


@pytest.mark.parametrize("method", ["search", "compensated", "descent"])
@pytest.mark.parametrize("symmetric", [True, False])
def test_stacked_rows_begin_as_each_alone(method: str, symmetric: bool) -> None:
    scheme = QuantScheme(3, 16, symmetric)
    inputs = drawn(256, 64, seed=0) @ (torch.eye(64) + 0.1)
    hessian = inputs.T @ inputs
    parts = [drawn(24, 64, seed=1), drawn(8, 64, seed=2)]
    together = _start(torch.cat(parts), scheme, hessian, method)
    alone = [_start(part, scheme, hessian, method) for part in parts]
    for name in ("scale", "zero"):
        expected = torch.cat([getattr(start, name) for start in alone])
        torch.testing.assert_close(getattr(together, name), expected, rtol=1e-3, atol=0)  # a float16's last bit
    levels = [(start.latent.round() + start.zero).clamp(0, 7) for start in (together, *alone)]
    differing = (levels[0] != torch.cat(levels[1:])).float().mean()
    assert differing < 0.01  # products of other sizes sum in another order, which a level at a border may feel
