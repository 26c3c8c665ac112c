"""A checkpoint, quantised or not, as a function from token ids to logits, computed by torch in float32."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np
import torch
from numpy.typing import NDArray

from ovround.checkpoint import Checkpoint, PackedCheckpoint
from ovround.floattensor import FloatTensor
from ovround.models.decoder import Decoder
from ovround.models.torch_ops import TorchOps

_KEEP_BYTES = 2 << 30  # checkpoints up to this size stay in memory; larger ones are read again for every batch


class CheckpointWeights(Mapping[str, torch.Tensor]):
    """A checkpoint's tensors as float32, read when they are asked for."""

    def __init__(self, checkpoint: Checkpoint) -> None:
        self._checkpoint = checkpoint
        self._names = checkpoint.tensors()
        self._kept: dict[str, torch.Tensor] | None = {} if checkpoint.size_bytes() <= _KEEP_BYTES else None

    def __getitem__(self, name: str) -> torch.Tensor:
        if name not in self._names:
            raise KeyError(name)
        if self._kept is not None and name in self._kept:
            return self._kept[name]
        tensor = torch.from_numpy(self._checkpoint.read(name).float32())
        if self._kept is not None:
            self._kept[name] = tensor
        return tensor

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)


class PackedWeights(Mapping[str, torch.Tensor]):
    """A quantised checkpoint's tensors de-quantised to float32, all of them in memory once they were asked for."""

    def __init__(self, source: PackedCheckpoint, shapes: Mapping[str, tuple[int, ...]]) -> None:
        self._source, self._shapes = source, shapes
        self._kept: dict[str, torch.Tensor] = {}

    def __getitem__(self, name: str) -> torch.Tensor:
        if name not in self._kept:
            weight = self._source.read(name, self._shapes[name])
            values = weight.float32() if isinstance(weight, FloatTensor) else weight.dequantize()
            self._kept[name] = torch.from_numpy(values)
        return self._kept[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._shapes)

    def __len__(self) -> int:
        return len(self._shapes)


class TorchModel:
    """Callable: token ids `[B, T]` -> logits float32 `[B, T, V]`."""

    def __init__(self, decoder: Decoder, weights: Mapping[str, torch.Tensor]) -> None:
        self._decoder, self._weights = decoder, weights

    @torch.no_grad()
    def __call__(self, ids: NDArray[np.int64]) -> NDArray[np.float32]:
        logits = self._decoder.logits(TorchOps(self._weights), torch.from_numpy(np.ascontiguousarray(ids)))
        values: NDArray[np.float32] = logits.numpy()
        return values
