"""A quantised Hugging Face folder in the making: shards, config.json with its quantization_config, the tokenizer's files.

It is read back by the reader that reads everybody's checkpoints (`ovround.checkpoint`), from config.json on.
"""

from __future__ import annotations

import importlib
import json
from pathlib import Path

from ovround.checkpoint import Checkpoint, PackedCheckpoint, open_source
from ovround.errors import OvroundError, UsageError, VerifyError
from ovround.exporters.checkpoints.aqlm import encode_codebooks
from ovround.exporters.checkpoints.layout import Format, Plan, Shapes, grid_of
from ovround.exporters.checkpoints.shards import ShardWriter
from ovround.exporters.source_files import copy_model_files, write_config
from ovround.exporters.target import Weight
from ovround.models.decoder import EMBEDDING, HEAD, Decoder
from ovround.models.layout import BLOCKS
from ovround.tensors.codebook_tensor import CodebookTensor
from ovround.tensors.float_tensor import FloatTensor
from ovround.tensors.qtensor import QTensor
from ovround.tensors.regrid import restored
from ovround.tensors.scheme import QuantScheme

_BLOCKS = f"{BLOCKS}."


def open_format(name: str, plan: Plan, shapes: Shapes) -> Format:
    """The format called `name`, for a model of this plan; raises UsageError for what it cannot hold. Imports no torch."""
    module = importlib.import_module(f"ovround.exporters.checkpoints.{name.replace('-', '_')}")
    opened: Format = module.Format(plan, shapes)
    return opened


def check_layout(name: str, decoder: Decoder) -> None:
    """Raise UsageError for a family whose checkpoints hold tensors joined or changed: they are not joined again.

    Other names are written as they are, but for embedding, head and blocks, which formats name in their configuration.
    """
    for tensor, source in decoder.sources().items():
        moved = source.name != tensor and not (tensor.startswith(_BLOCKS) and source.name.startswith(_BLOCKS))
        if not source.is_plain or (moved and tensor in (f"{EMBEDDING}.weight", f"{HEAD}.weight")):
            how = "under another name" if source.is_plain else "joined, transposed or shifted"
            raise UsageError(
                f"format {name}: checkpoints of this family hold `{tensor}` {how} (`{source.name}`), which is not written yet",
                hint="--format openvino or onnx",
            )


class CheckpointExporter:
    """Writes weights as they arrive and config.json at the end; see `exporters.target.Exporter`."""

    def __init__(self, name: str, folder: Path, decoder: Decoder, source: Path, plan: Plan, shapes: Shapes) -> None:
        self.folder = folder
        self._decoder = decoder
        self._format = open_format(name, plan, shapes)
        copy_model_files(source, folder, decoder.config.max_position_embeddings)
        self._shards = ShardWriter(folder)
        self._names = {name: source.name for name, source in decoder.sources().items()}
        self._shapes: dict[str, tuple[int, ...]] = {}
        self._grids: dict[str, QuantScheme] = {}
        self._coded: set[str] = set()
        self._tuned: dict[str, QuantScheme] = {}
        self._written: Checkpoint | PackedCheckpoint | None = None

    def write(self, name: str, weight: Weight) -> None:
        name = self._names.get(name, name)  # as the family's checkpoints call it
        self._shapes[name] = weight.shape
        if isinstance(weight, FloatTensor):
            self._shards.write(name, weight.data, weight.dtype)
            return
        module = name.removesuffix(".weight")
        if isinstance(weight, CodebookTensor):
            self._coded.add(module)
            for suffix, data in encode_codebooks(weight).items():
                self._shards.write(f"{module}.{suffix}", data)
            return
        stored = self._format.stored(weight)
        self._tuned[name] = QuantScheme(weight.bits, weight.group_size, weight.symmetric)
        self._grids[module] = grid_of(stored)
        for suffix, data in self._format.encode(module, stored).items():
            self._shards.write(f"{module}.{suffix}", data)

    def finish(self) -> None:
        for name, data in self._format.rest():
            self._shards.write(name, data)
        self._shards.finish()
        config = json.loads((self.folder / "config.json").read_text(encoding="utf-8"))
        if self._decoder.head_at == HEAD:
            config["tie_word_embeddings"] = False  # a head on a grid of its own unties it
        packed = {*self._grids, *self._coded}
        if packed:
            linears = [
                name.removesuffix(".weight")
                for name, shape in self._shapes.items()
                if len(shape) == 2 and name != f"{EMBEDDING}.weight"
            ]
            tied = [HEAD] if self._decoder.head_at != HEAD else []
            floats = [module for module in (*linears, *tied) if module not in packed]
            config["quantization_config"] = self._format.settings(self._grids, floats)
        write_config(self.folder, config)

    def read(self, name: str) -> Weight:
        name = self._names.get(name, name)
        try:
            if self._written is None:
                self._written = open_source(self.folder)
            if isinstance(self._written, Checkpoint):
                return self._written.read(name)
            weight = self._written.read(name, self._shapes[name])
            tuned = self._tuned.get(name)
            if isinstance(weight, QTensor) != (tuned is not None):
                raise ValueError(f"it is a {type(weight).__name__}")
            if not isinstance(weight, QTensor) or tuned is None:
                return weight
            return restored(weight, tuned.bits, tuned.group_size, tuned.symmetric)
        except (OvroundError, ValueError) as error:
            raise VerifyError(f"weight `{name}` cannot be read back: {error}") from error

    def close(self) -> None:
        self._shards.close()
