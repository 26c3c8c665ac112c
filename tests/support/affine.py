"""Random weights of GGUF's block types."""

from __future__ import annotations

import numpy as np
from gguf import GGML_QUANT_SIZES, GGMLQuantizationType, quants
from numpy.typing import NDArray

from ovround.checkpoint.gguf.affine_blocks import affine_tensor
from ovround.tensors.affine_tensor import AffineTensor

HALVES = {
    "Q4_1": (0, 2), "Q5_0": (0,), "Q5_1": (0, 2), "Q2_K": (80, 82), "Q3_K": (108,), "Q4_K": (0, 2), "Q5_K": (0, 2), "Q6_K": (208,)
}  # fmt: skip
"""Where a block has its float16 numbers."""


def random_blocks(kind: str, shape: tuple[int, int], seed: int = 0) -> NDArray[np.uint8]:
    """Bytes `[N, bytes of K]` of random codes and factors, whose float16 numbers are of usual sizes and of both signs."""
    weights, size = GGML_QUANT_SIZES[GGMLQuantizationType[kind]]
    rng = np.random.default_rng(seed)
    blocks = rng.integers(0, 256, (shape[0], shape[1] // weights, size)).astype(np.uint8)
    for start in HALVES[kind]:
        numbers = rng.uniform(0.002, 0.02, blocks.shape[:2]) * rng.choice([-1, 1], blocks.shape[:2], p=[0.1, 0.9])
        blocks[..., start : start + 2] = numbers.astype(np.float16)[..., None].view(np.uint8)
    return blocks.reshape(shape[0], -1)


def sized_blocks(kind: str, shape: tuple[int, int], seed: int = 0, rms: float = 0.1) -> NDArray[np.uint8]:
    """`random_blocks` whose weights have about this root mean square, as those of a model have."""
    blocks = random_blocks(kind, shape, seed)
    weights, size = GGML_QUANT_SIZES[GGMLQuantizationType[kind]]
    values = quants.dequantize(blocks, GGMLQuantizationType[kind])
    parts = blocks.reshape(shape[0], shape[1] // weights, size)
    for start in HALVES[kind]:
        numbers = np.ascontiguousarray(parts[..., start : start + 2]).view(np.float16)
        parts[..., start : start + 2] = (numbers * np.float16(rms / np.sqrt(np.mean(values**2)))).view(np.uint8)
    return parts.reshape(shape[0], -1)


def random_affine(kind: str, shape: tuple[int, int], seed: int = 0) -> AffineTensor:
    """A weight of type `kind` made of `random_blocks`."""
    return affine_tensor(random_blocks(kind, shape, seed), kind)
