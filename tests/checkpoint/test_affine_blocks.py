"""GGUF blocks as affine tensors, against the `gguf` package's own de-quantisation, bit for bit."""

from __future__ import annotations

import numpy as np
import pytest
from gguf import GGMLQuantizationType, quants
from gguf_blocks import random_blocks

from ovround.checkpoint.gguf.affine_blocks import AFFINE_KINDS, affine_tensor
from ovround.tensors.scheme import AffineScheme


@pytest.mark.parametrize("kind", AFFINE_KINDS)
def test_values_are_those_of_the_gguf_package(kind: str) -> None:
    blocks = random_blocks(kind, (40, 1024))
    tensor = affine_tensor(blocks, kind)
    expected = quants.dequantize(blocks, GGMLQuantizationType[kind])
    assert tensor.shape == expected.shape
    np.testing.assert_array_equal(tensor.dequantize(), expected)


@pytest.mark.parametrize("kind", AFFINE_KINDS)
def test_every_byte_matters(kind: str) -> None:
    """The smallest change of a block changes the digest: nothing of the file is dropped."""
    blocks = random_blocks(kind, (1, 256))
    digest = affine_tensor(blocks, kind).digest()
    for index in range(blocks.shape[1]):
        changed = blocks.copy()
        changed[0, index] ^= 1
        assert affine_tensor(changed, kind).digest() != digest, index


def test_a_scale_that_is_no_number_is_refused() -> None:
    blocks = random_blocks("Q4_K", (2, 256))
    blocks[1, 0:2] = np.array([np.inf], np.float16).view(np.uint8)
    with pytest.raises(ValueError, match="finite"):
        affine_tensor(blocks, "Q4_K")


@pytest.mark.parametrize("kind", AFFINE_KINDS)
def test_schemes_are_written_and_read(kind: str) -> None:
    tensor = affine_tensor(random_blocks(kind, (4, 512)), kind)
    assert AffineScheme.parse(tensor.scheme.spec) == tensor.scheme
    assert tensor.size_bytes * 8 == tensor.scheme.size_bits(tensor.shape)
