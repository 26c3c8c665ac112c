"""Random weights of GGUF's block types."""

from __future__ import annotations

import numpy as np
from gguf import GGMLQuantizationType, quants
from numpy.typing import NDArray

from ovround.checkpoint.gguf.affine_blocks import affine_tensor
from ovround.checkpoint.gguf.types import block_of
from ovround.tensors.affine_tensor import AffineTensor

HALVES = {
    "Q1_0": (0,), "Q2_0": (0,), "Q4_0": (0,), "Q4_1": (0, 2), "Q5_0": (0,), "Q5_1": (0, 2), "Q8_0": (0,), "Q8_1": (0,),
    "Q2_K": (80, 82), "Q3_K": (108,), "Q4_K": (0, 2), "Q5_K": (0, 2), "Q6_K": (208,), "IQ4_NL": (0,), "IQ4_XS": (0,),
    "TQ1_0": (52,), "TQ2_0": (64,), "IQ2_XXS": (0,), "IQ2_XS": (0,), "IQ2_S": (0,), "IQ3_XXS": (0,), "IQ3_S": (0,),
    "IQ1_S": (0,),
}  # fmt: skip
"""Where a block has its float16 numbers."""


def random_blocks(kind: str, shape: tuple[int, int], seed: int = 0) -> NDArray[np.uint8]:
    """Bytes `[N, bytes of K]` of random codes and factors, whose scales are of usual sizes and of both signs."""
    weights, size = block_of(kind)
    rng = np.random.default_rng(seed)
    blocks = rng.integers(0, 256, (shape[0], shape[1] // weights, size)).astype(np.uint8)
    places = blocks.shape[:2]

    def scales() -> NDArray[np.float64]:
        return rng.uniform(0.002, 0.02, places) * rng.choice([-1, 1], places, p=[0.1, 0.9])

    for start in HALVES.get(kind, ()):
        blocks[..., start : start + 2] = scales().astype(np.float16)[..., None].view(np.uint8)
    if kind == "MXFP4":
        blocks[..., 0] = rng.integers(115, 130, places)
    if kind == "NVFP4":
        blocks[..., :4] = rng.integers(30, 80, (*places, 4))
    if kind == "Q8_K":
        blocks[..., :4] = scales().astype(np.float32)[..., None].view(np.uint8)
    if kind == "IQ1_M":  # the scale lies in the upper nibbles of four numbers
        bits = scales().astype(np.float16).view(np.uint16)
        words = np.ascontiguousarray(blocks[..., 48:56]).view(np.uint16)
        for index in range(4):
            words[..., index] = words[..., index] & 0x0FFF | (bits >> 4 * index & 15) << 12
        blocks[..., 48:56] = words.view(np.uint8)
    return blocks.reshape(shape[0], -1)


def sized_blocks(kind: str, shape: tuple[int, int], seed: int = 0, rms: float = 0.1) -> NDArray[np.uint8]:
    """`random_blocks` whose weights have about this root mean square, as those of a model have."""
    blocks = random_blocks(kind, shape, seed)
    weights, size = block_of(kind)
    values = quants.dequantize(blocks, GGMLQuantizationType[kind])
    parts = blocks.reshape(shape[0], shape[1] // weights, size)
    for start in HALVES[kind]:
        numbers = np.ascontiguousarray(parts[..., start : start + 2]).view(np.float16)
        parts[..., start : start + 2] = (numbers * np.float16(rms / np.sqrt(np.mean(values**2)))).view(np.uint8)
    return parts.reshape(shape[0], -1)


def random_affine(kind: str, shape: tuple[int, int], seed: int = 0) -> AffineTensor:
    """A weight of type `kind` made of `random_blocks`."""
    return affine_tensor(random_blocks(kind, shape, seed), kind)
