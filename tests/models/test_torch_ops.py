"""Torch's own ways of computing: attention of short bfloat16 windows, and activations as an engine rounds them."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from ovround.models.ops import Attention
from ovround.models.rope import Rope
from ovround.models.torch_ops import TorchOps, round_to_8_bits


@pytest.mark.parametrize(("heads", "kv_heads"), [(4, 4), (6, 2), (3, 1)])
@pytest.mark.parametrize("tokens", [1, 5, 128, 200, 513])
def test_attention_in_bfloat16_is_that_in_float32(heads: int, kv_heads: int, tokens: int, rope: Rope) -> None:
    generator = torch.Generator().manual_seed(tokens)
    spec = Attention(heads, kv_heads, 16, 0.25, rope)
    q = torch.randn(2, tokens, heads * 16, generator=generator)
    k, v = (torch.randn(2, tokens, kv_heads * 16, generator=generator) for _ in range(2))
    exact = TorchOps({}).attention(q, k, v, 0, spec)
    half = TorchOps({}).attention(q.bfloat16(), k.bfloat16(), v.bfloat16(), 0, spec).float()
    # bfloat16 keeps 8 bits: 2^-9 for each of the values, products and weights that are rounded on the way
    assert float((half - exact).norm() / exact.norm()) < 0.02
    other = TorchOps({}).attention(q.bfloat16(), k.bfloat16(), v.flip(1).bfloat16(), 0, spec).float()
    assert tokens == 1 or float((other - exact).norm() / exact.norm()) > 0.1


@pytest.fixture
def rope() -> Rope:
    from ovround.models.rope import rope_from_config

    return rope_from_config({"rope_theta": 10000.0}, 16)


@pytest.mark.parametrize(("columns", "group"), [(64, 16), (64, 64), (80, 32), (24, 128)])
def test_activations_are_rounded_by_group(columns: int, group: int) -> None:
    x = torch.randn(2, 3, columns, generator=torch.Generator().manual_seed(0))
    x[0, 0, :group] = 0
    rounded = round_to_8_bits(x, group).numpy()
    for row, values in zip(rounded.reshape(-1, columns), x.numpy().reshape(-1, columns), strict=True):
        for start in range(0, columns, group):
            part = values[start : start + group]
            scale = np.float32(np.abs(part).max() / 127) or np.float32(1)
            np.testing.assert_allclose(row[start : start + group], np.round(part / scale) * scale, rtol=1e-6, atol=1e-7)
    leaf = x.clone().requires_grad_()
    round_to_8_bits(leaf, group).sum().backward()
    assert torch.equal(leaf.grad, torch.ones_like(x))  # type: ignore[arg-type]
