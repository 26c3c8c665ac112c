"""Conversion of values to the float types of checkpoints."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from ovround.tensors.float_tensor import FloatTensor, FloatType


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_values_are_rounded_as_torch_rounds_them(dtype: FloatType) -> None:
    generator = np.random.default_rng(0)
    values = (generator.standard_normal(4096) * 10.0 ** generator.integers(-4, 4, 4096)).astype(np.float32)
    values[:4] = 0.0, -0.0, 1 + 2**-8, 1 + 3 * 2**-8  # the last two lie halfway between bfloat16 values
    tensor = FloatTensor.of(values.reshape(64, 64), dtype)
    expected = torch.from_numpy(values).to(getattr(torch, dtype)).float().numpy().reshape(64, 64)
    assert (tensor.dtype, tensor.shape) == (dtype, (64, 64))
    np.testing.assert_array_equal(tensor.float32(), expected)
