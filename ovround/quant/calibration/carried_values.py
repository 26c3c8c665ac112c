"""What one model's blocks have left for later ones, for all calibration samples: keys and values, ids, embeddings.

They lie in memory, or in mapped files beside the hidden states, from the block that leaves them to the last one that reads them.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import torch

from ovround.models.calls import carried
from ovround.models.decoder import Decoder
from ovround.models.torch_ops import TorchOps
from ovround.quant.calibration.activation_file import Activations
from ovround.quant.device import CPU, Device


class CarriedValues:
    """Values by the names of `Ops.shared`, of `count` samples; `path` is that of the hidden states' file, None in memory."""

    def __init__(self, decoder: Decoder, count: int, path: Path | None = None) -> None:
        self._reads = [carried(decoder, layer) for layer in range(decoder.config.num_hidden_layers)]
        self._count, self._path = count, path
        self._values: dict[str, Activations | torch.Tensor] = {}

    def names(self, layers: Iterable[int]) -> tuple[str, ...]:
        """What the blocks `layers` read of those before the first of them."""
        read = dict.fromkeys(name for layer in layers for name in self._reads[layer])
        return tuple(name for name in read if name in self._values)

    def tensors(self, names: Iterable[str]) -> tuple[torch.Tensor, ...]:
        """The values `[S, ...]` of these names."""
        values = (self._values[name] for name in names)
        return tuple(value if isinstance(value, torch.Tensor) else value.tensor for value in values)

    def give(self, ops: TorchOps, layers: Iterable[int], rows: slice, device: Device = CPU) -> None:
        """Let `ops` read what the blocks `layers` need of these samples."""
        names = self.names(layers)
        values = zip(names, self.tensors(names), strict=True)
        ops.shared_values = {name: device.put(value[rows]) for name, value in values}

    def take(self, ops: TorchOps, layer: int, rows: slice) -> None:
        """Keep what `ops` has been left of these samples and a block from `layer` on reads."""
        wanted = {name for reads in self._reads[layer:] for name in reads}
        for name in ops.shared_values.keys() & wanted:
            value = ops.shared_values[name]
            if name not in self._values:
                self._values[name] = self._room(name, value)
            self._values[name][rows] = value.to("cpu")

    def drop(self, layer: int) -> None:
        """Forget what no block from `layer` on reads."""
        wanted = {name for reads in self._reads[layer:] for name in reads}
        for name in self._values.keys() - wanted:
            value = self._values.pop(name)
            if isinstance(value, Activations):
                value.close()

    def release(self) -> None:
        """Give pages of mapped files back to the system."""
        for value in self._values.values():
            if isinstance(value, Activations):
                value.release()

    def _room(self, name: str, value: torch.Tensor) -> Activations | torch.Tensor:
        shape = (self._count, *value.shape[1:])
        if not value.is_floating_point():
            return torch.empty(shape, dtype=value.dtype)
        path = None if self._path is None else self._path.with_name(f"{self._path.stem}-{name}.activations")
        return Activations(shape, path)
