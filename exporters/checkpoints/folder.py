"""Writes a quantised Hugging Face folder: shards, config.json with its quantization_config, the tokenizer's files."""

from __future__ import annotations

import json
from pathlib import Path

from ovround.exporters.checkpoints import aqlm
from ovround.exporters.checkpoints.formats import open_format
from ovround.exporters.checkpoints.joining import Joiner, StoredLayout
from ovround.exporters.checkpoints.layout import Plan, scheme_of
from ovround.exporters.checkpoints.shards import ShardWriter
from ovround.exporters.exporter import Weight
from ovround.exporters.source_files import copy_model_files, write_config
from ovround.models import from_config
from ovround.models.decoder import HEAD, Decoder
from ovround.tensors.codebook_tensor import CodebookTensor
from ovround.tensors.float_tensor import FloatTensor
from ovround.tensors.qtensor import QTensor
from ovround.tensors.scheme import QuantScheme


def check_format(name: str, decoder: Decoder, plan: Plan) -> None:
    """Raise UsageError for a model of this plan that a checkpoint of its family, in the format `name`, cannot hold."""
    layout = StoredLayout(decoder)
    layout.check(name, plan)
    open_format(name, layout.plan(plan), layout.shapes())


class CheckpointExporter:
    """Writes weights as they arrive and config.json at the end; see `exporters.exporter.Exporter`."""

    def __init__(self, name: str, folder: Path, decoder: Decoder, source: Path, plan: Plan) -> None:
        self.folder = folder
        self._decoder = decoder
        self._layout = StoredLayout(decoder)
        self._joiner = Joiner(self._layout)
        self._format = open_format(name, self._layout.plan(plan), self._layout.shapes())
        copy_model_files(source, folder, decoder.config.max_position_embeddings)
        self._shards = ShardWriter(folder)
        self._shapes: dict[str, tuple[int, ...]] = {}
        self._schemes: dict[str, QuantScheme] = {}  # as stored
        self._coded: set[str] = set()  # modules made of codebooks

    def write(self, name: str, weight: Weight) -> None:
        if (whole := self._joiner.add(name, weight)) is None:
            return
        name, weight = whole  # as the family's checkpoints hold it
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
                if len(shape) == 2 and name.endswith(".weight") and name != self._layout.embedding()
            ]
            # a tied head, and one that loaders rename (GPT-NeoX's `embed_out`)
            head = [HEAD] if HEAD not in linears else []
            floats = [module for module in (*linears, *head) if module not in packed]
            config["quantization_config"] = self._format.settings(self._schemes, floats)
        write_config(self.folder, config)

    def close(self) -> None:
        self._shards.close()
