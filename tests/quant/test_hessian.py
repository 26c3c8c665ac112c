"""X^T X of a layer's inputs, from float32 and from bfloat16."""

from __future__ import annotations

import pytest
import torch

from ovround.quant.calibration.hessian import InputHessian


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_they_are_exact_sums_and_shared_inputs_share_them(dtype: torch.dtype) -> None:
    draw = torch.Generator().manual_seed(0)
    weights = {f"{name}.weight": torch.randn(8, 96, generator=draw).to(dtype) for name in ("q", "k", "o")}
    inputs = [torch.randn(4, 128, 96, generator=draw).to(dtype) for _ in range(3)]
    precision = torch.get_float32_matmul_precision()
    ops = InputHessian(weights)
    for x in inputs[:2]:
        ops.linear(x, "q")
        ops.linear(x, "k")
    ops.linear(inputs[2], "o")
    assert torch.get_float32_matmul_precision() == precision
    assert ops.hessians["q"] is ops.hessians["k"]
    for name, seen in (("q", inputs[:2]), ("o", inputs[2:])):
        rows = torch.cat([x.flatten(0, 1) for x in seen]).double()
        expected = rows.T @ rows
        # float32 sums of 1024 products, each exact where inputs are bfloat16; a product rounded to that type is off by 0.004
        torch.testing.assert_close(ops.hessians[name].double(), expected, rtol=1e-5, atol=1e-5 * float(expected.max()))
