"""Writes a quantised Hugging Face folder: shards, config.json with its quantization_config, the tokenizer's files."""

from __future__ import annotations

import json
from pathlib import Path

from ovround.errors import UsageError
from ovround.exporters.checkpoints import aqlm
from ovround.exporters.checkpoints.formats import open_format
from ovround.exporters.checkpoints.layout import Plan, scheme_of
from ovround.exporters.checkpoints.shards import ShardWriter
from ovround.exporters.exporter import Weight
from ovround.exporters.source_files import copy_model_files, write_config
from ovround.models import from_config
from ovround.models.decoder import EMBEDDING, HEAD, Decoder
from ovround.models.layout import BLOCKS
from ovround.tensors.codebook_tensor import CodebookTensor
from ovround.tensors.float_tensor import FloatTensor
from ovround.tensors.qtensor import QTensor
from ovround.tensors.scheme import QuantScheme

_BLOCKS = f"{BLOCKS}."


def check_layout(name: str, decoder: Decoder) -> None:
    """Raise UsageError for a family whose checkpoints hold tensors joined or changed: no exporter joins them again.

    Tensors of other names are written under those. Embedding, head and blocks must have the usual names, which the
    configuration of formats refers to.
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
    """Writes weights as they arrive and config.json at the end; see `exporters.exporter.Exporter`."""

    def __init__(self, name: str, folder: Path, decoder: Decoder, source: Path, plan: Plan) -> None:
        self.folder = folder
        self._decoder = decoder
        self._format = open_format(name, plan, decoder.every_tensor())
        copy_model_files(source, folder, decoder.config.max_position_embeddings)
        self._shards = ShardWriter(folder)
        self._names = {name: source.name for name, source in decoder.sources().items()}
        self._shapes: dict[str, tuple[int, ...]] = {}
        self._schemes: dict[str, QuantScheme] = {}  # as stored
        self._coded: set[str] = set()  # modules made of codebooks

    def write(self, name: str, weight: Weight) -> None:
        name = self._names.get(name, name)  # as the family's checkpoints call it
        self._shapes[name] = weight.shape
        if isinstance(weight, FloatTensor):
            self._shards.write(name, weight.data, weight.dtype)
            return
        module = name.removesuffix(".weight")
        if isinstance(weight, CodebookTensor):
            if not isinstance(self._format, aqlm.Format):
                raise TypeError(f"`{module}` is made of codebooks, which the format cannot hold")
            self._coded.add(module)
            for suffix, data in self._format.encode_codebooks(module, weight).items():
                self._shards.write(f"{module}.{suffix}", data)
            return
        if not isinstance(weight, QTensor):
            raise TypeError(f"`{module}` is affine, which the format cannot hold")
        stored = self._format.stored(weight)
        self._schemes[module] = scheme_of(stored)
        for suffix, data in self._format.encode(module, stored).items():
            self._shards.write(f"{module}.{suffix}", data)

    def finish(self) -> None:
        for name, data in self._format.rest():
            self._shards.write(name, data)
        self._shards.finish()
        config = json.loads((self.folder / "config.json").read_text(encoding="utf-8"))
        if self._decoder.head_at == HEAD:
            config["tie_word_embeddings"] = False  # a head with a scheme of its own unties it
        elif from_config(config).head_at == HEAD:
            config["tie_word_embeddings"] = True  # a GGUF file without a head, whatever the original's config.json says
        packed = {*self._schemes, *self._coded}
        if packed:
            linears = [
                name.removesuffix(".weight")
                for name, shape in self._shapes.items()
                if len(shape) == 2 and name != f"{EMBEDDING}.weight"
            ]
            tied = [HEAD] if self._decoder.head_at != HEAD else []
            floats = [module for module in (*linears, *tied) if module not in packed]
            config["quantization_config"] = self._format.settings(self._schemes, floats)
        write_config(self.folder, config)

    def close(self) -> None:
        self._shards.close()
