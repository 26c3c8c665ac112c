"""MXFP4 checkpoints, as gpt-oss is published: experts in 4-bit floats, read as the bfloat16 numbers that they stand for.

    NAME_blocks uint8 [E, N, K / 32, 16]   two levels a byte, the low nibble first: sign, two bits of exponent, one of mantissa
    NAME_scales uint8 [E, N, K / 32]       powers of two, less 127

No integer scheme holds these levels, but each is exactly a bfloat16 number. So the folder is read as an unquantised checkpoint
whose tensor NAME is bfloat16 `[E, K, N]`, as transformers names and de-quantises it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from ovround.checkpoint.files.element_types import TensorInfo
from ovround.checkpoint.files.weights_file import WeightsFile
from ovround.checkpoint.formats.small_floats import decode_e8m0, decode_fp4
from ovround.checkpoint.hf import Checkpoint
from ovround.errors import TensorError
from ovround.tensors.float_tensor import FloatTensor

BLOCKS, SCALES = "_blocks", "_scales"
_GROUP = 32
_LARGEST = 252  # 6 * 2^(252 - 127) is the largest scale whose every level is finite; 255 stands for NaN
_RANKS = {BLOCKS: 4, SCALES: 3}


@dataclass(frozen=True, slots=True)
class Mxfp4Checkpoint(Checkpoint):
    """See `Checkpoint`; packed tensors appear under their own name, with the shape that they have de-quantised."""

    def tensors(self) -> dict[str, TensorInfo]:
        infos = {name: info for file in self.files for name, info in file.tensors.items()}
        for name in [name for name in infos if name.endswith(BLOCKS)]:
            stacked_name = name.removesuffix(BLOCKS)
            if stacked_name + SCALES in infos and stacked_name not in infos:
                infos[stacked_name] = _unpacked(stacked_name, infos.pop(name), infos.pop(stacked_name + SCALES))
        return infos

    def read(self, name: str, index: int | None = None) -> FloatTensor:
        packed = self._file(name + BLOCKS), self._file(name + SCALES)
        if packed[0] is None or packed[1] is None:
            return Checkpoint.read(self, name, index)
        blocks = packed[0].read_array(name + BLOCKS, index)
        return _decoded(blocks, _scales(packed[1], name + SCALES, index))

    def scan(self) -> dict[str, str]:
        for file in self.files:
            for name in file.tensors:
                if name.endswith(SCALES):
                    _scales(file, name)
        return Checkpoint.scan(self)

    def _file(self, name: str) -> WeightsFile | None:
        return next((file for file in self.files if name in file.tensors), None)


def open_mxfp4(checkpoint: Checkpoint) -> Mxfp4Checkpoint:
    """`checkpoint` with its packed tensors de-quantised as they are read."""
    config = {key: value for key, value in checkpoint.config.items() if key != "quantization_config"}
    return Mxfp4Checkpoint(checkpoint.folder, config, checkpoint.files)


def _unpacked(name: str, blocks: TensorInfo, scales: TensorInfo) -> TensorInfo:
    """What tensor `name` will be; raises TensorError for two parts that do not belong together."""
    for suffix, info in ((BLOCKS, blocks), (SCALES, scales)):
        if info.dtype != "U8" or len(info.shape) != _RANKS[suffix]:
            raise TensorError(
                f"tensor `{name}{suffix}` is {info.dtype} {list(info.shape)}; mxfp4 calls for U8 of {_RANKS[suffix]} axes"
            )
    if blocks.shape != (*scales.shape, _GROUP // 2):
        raise TensorError(
            f"tensor `{name}{BLOCKS}` is {list(blocks.shape)}, `{name}{SCALES}` {list(scales.shape)}; they do not belong together",
            hint="the checkpoint is damaged",
        )
    experts, rows, groups = scales.shape
    shape = (experts, groups * _GROUP, rows)
    return replace(blocks, dtype="BF16", shape=shape, size_bytes=2 * math.prod(shape))


def _scales(file: WeightsFile, name: str, index: int | None = None) -> NDArray[np.uint8]:
    """Raises TensorError for a scale with which a level is no finite number."""
    scales: NDArray[np.uint8] = file.read_array(name, index)
    if int(scales.max(initial=0)) > _LARGEST:
        raise TensorError(
            f"`{name}` in `{file.path.name}` has a scale of {scales.max()}; {_LARGEST} is the largest that is a number",
            hint="the checkpoint is damaged: get it again",
        )
    return scales


def _decoded(blocks: NDArray[np.uint8], scales: NDArray[np.uint8]) -> FloatTensor:
    """bfloat16 `[..., K, N]` of blocks `[..., N, K / 32, 16]` and scales `[..., N, K / 32]`."""
    values = decode_fp4(blocks) * decode_e8m0(scales)[..., None]
    bits = (values.view(np.uint32) >> 16).astype(np.uint16)  # nothing is lost: a level has two bits of mantissa
    return FloatTensor(np.ascontiguousarray(bits.reshape(*scales.shape[:-1], -1).swapaxes(-1, -2)), "bfloat16")
