"""GGUF's types with float minimums: what is read as an `AffineTensor` is written again byte for byte."""

from __future__ import annotations

import numpy as np
import pytest

from ovround.checkpoint.gguf.affine_blocks import affine_tensor
from ovround.exporters.gguf.affine import affine_kind, encoded_affine
from ovround.tensors.affine_tensor import AffineTensor
from ovround.tensors.group_values import GroupValues

# bytes of a block, and where its float16 numbers are
BLOCKS = {
    "Q4_1": (20, [0, 2]), "Q5_0": (22, [0]), "Q5_1": (24, [0, 2]), "Q2_K": (84, [80, 82]), "Q3_K": (110, [108]),
    "Q4_K": (144, [0, 2]), "Q5_K": (176, [0, 2]), "Q6_K": (210, [208]),
}  # fmt: skip


@pytest.mark.parametrize("kind", BLOCKS)
def test_every_byte_returns(kind: str) -> None:
    """Random bytes in every field: no bit of a block is without a place in the tensor."""
    size, halves = BLOCKS[kind]
    rng = np.random.default_rng(0)
    blocks = rng.integers(0, 256, (5, 8, size), dtype=np.uint8)
    for at in halves:
        blocks[..., at : at + 2] = rng.standard_normal((5, 8, 1)).astype(np.float16).view(np.uint8)
    rows = blocks.reshape(5, -1)
    tensor = affine_tensor(rows, kind)
    assert affine_kind(tensor.scheme.spec) == kind
    found = encoded_affine(tensor)
    assert found is not None
    assert found[0] == kind
    np.testing.assert_array_equal(found[1], rows)


def test_a_grid_of_no_type() -> None:
    scales = GroupValues(np.ones((2, 1), np.float16))
    assert encoded_affine(AffineTensor(np.zeros((2, 64), np.uint8), scales, scales, 3)) is None
