"""A checkpoint, quantised or not, as a function from token ids to logits, computed by torch in float32."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping

import numpy as np
import torch
from numpy.typing import NDArray

from ovround.checkpoint import Checkpoint, PackedCheckpoint
from ovround.models.decoder import Decoder
from ovround.models.torch_ops import TorchOps
from ovround.tensors.float_tensor import FloatTensor

_KEEP_BYTES = 2 << 30  # a checkpoint up to this size stays in memory; a larger one is read again for every batch


class ReadWeights(Mapping[str, torch.Tensor]):
    """Tensors as float32, read on first access; `read` gives the tensor of a name, `size_bytes` is their sum."""

    def __init__(self, names: Iterable[str], read: Callable[[str], NDArray[np.float32]], size_bytes: int) -> None:
        self._names, self._read = tuple(names), read
        self._kept: dict[str, torch.Tensor] | None = {} if size_bytes <= _KEEP_BYTES else None

    def __getitem__(self, name: str) -> torch.Tensor:
        if name not in self._names:
            raise KeyError(name)
        if self._kept is not None and name in self._kept:
            return self._kept[name]
        tensor = torch.from_numpy(self._read(name))
        if self._kept is not None:
            self._kept[name] = tensor
        return tensor

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)


class CheckpointWeights(ReadWeights):
    """The tensors of a checkpoint that is not quantised."""

    def __init__(self, checkpoint: Checkpoint) -> None:
        super().__init__(checkpoint.tensors(), lambda name: checkpoint.read(name).float32(), checkpoint.size_bytes())


class PackedWeights(ReadWeights):
    """The tensors named in `shapes` of a quantised checkpoint, de-quantised from its integers, scales and zero points."""

    def __init__(self, source: PackedCheckpoint, shapes: Mapping[str, tuple[int, ...]]) -> None:
        def read(name: str) -> NDArray[np.float32]:
            weight = source.read(name, shapes[name])
            return weight.float32() if isinstance(weight, FloatTensor) else weight.dequantize()

        super().__init__(shapes, read, sum(4 * math.prod(shape) for shape in shapes.values()))


class TorchModel:
    """A function from token ids `[B, T]` to logits float32 `[B, T, V]`."""

    def __init__(self, decoder: Decoder, weights: Mapping[str, torch.Tensor]) -> None:
        self._decoder, self._weights = decoder, weights

    @torch.no_grad()
    def __call__(self, ids: NDArray[np.int64]) -> NDArray[np.float32]:
        logits = self._decoder.logits(TorchOps(self._weights), torch.from_numpy(np.ascontiguousarray(ids)))
        values: NDArray[np.float32] = logits.numpy()
        return values
