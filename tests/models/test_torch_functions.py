"""Functions with their gradients written out, against what autograd makes of the plain formulas."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from ovround.models.torch_functions import rms_norm, turn
from ovround.models.torch_ops import rotate

EPS = 1e-5


def drawn(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def rotated_by_halves(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    half = cos.shape[-1]
    cos, sin = cos.unsqueeze(1), sin.unsqueeze(1)
    first, second, rest = x[..., :half], x[..., half : 2 * half], x[..., 2 * half :]
    return torch.cat([first * cos - second * sin, second * cos + first * sin, rest], dim=-1)


@pytest.mark.parametrize("size", [8, 6], ids=["whole head", "part of a head"])
def test_rotation_and_its_gradient(size: int) -> None:
    x, pull = drawn(2, 5, 3, 8).requires_grad_(), drawn(2, 5, 3, 8, seed=1)
    angles = drawn(5, size // 2, seed=2)
    cos, sin = angles.cos(), angles.sin()
    expected = rotated_by_halves(x, cos, sin)
    computed = rotate(x, cos, sin)
    torch.testing.assert_close(computed, expected)
    gradients = [torch.autograd.grad(output, x, pull)[0] for output in (computed, expected)]
    torch.testing.assert_close(*gradients)
    torch.testing.assert_close(computed.norm(), x.norm())  # a rotation


def test_turning_passes_gradcheck() -> None:
    x = drawn(1, 2, 1, 4).double().requires_grad_()
    cos, sin = (drawn(2, 1, 4, seed=seed).double() for seed in (1, 2))
    cos, sin = torch.cat([cos[..., :2]] * 2, -1), torch.cat([-sin[..., :2], sin[..., :2]], -1)
    assert torch.autograd.gradcheck(lambda point: turn(point, cos, sin), (x,))


# bfloat16 keeps 8 bits: one of a value around 4 is 1/64
@pytest.mark.parametrize(("dtype", "within"), [(torch.float32, 1e-5), (torch.bfloat16, 2**-5)])
@pytest.mark.parametrize("learns_weight", [False, True])
def test_rms_norm_and_its_gradients(dtype: torch.dtype, within: float, learns_weight: bool) -> None:
    x, weight = drawn(3, 4, 16).to(dtype).requires_grad_(), (1 + drawn(16, seed=1) / 4).to(dtype)
    weight.requires_grad_(learns_weight)
    pull = drawn(3, 4, 16, seed=2).to(dtype)
    computed = rms_norm(x, weight, EPS)
    assert computed.dtype == dtype
    wanted = [x, weight] if learns_weight else [x]
    exact_x, exact_weight = (tensor.detach().double().requires_grad_() for tensor in (x, weight))
    exact = F.rms_norm(exact_x, (16,), exact_weight, EPS)
    torch.testing.assert_close(computed.double(), exact, rtol=0, atol=within)
    gradients = torch.autograd.grad(computed, wanted, pull)
    expected = torch.autograd.grad(exact, [exact_x, exact_weight][: len(wanted)], pull.double())
    for gradient, right in zip(gradients, expected, strict=True):
        assert gradient.dtype == dtype
        # of up to 12 terms, each rounded
        torch.testing.assert_close(gradient.double(), right, rtol=within, atol=4 * within)
