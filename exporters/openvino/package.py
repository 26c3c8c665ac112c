"""The OpenVINO folder: weights, graph, tokenizer graphs, in the layout of openvino_genai and optimum-intel."""

from __future__ import annotations

from pathlib import Path

import openvino as ov

from ovround.exporters.native_parts import fits_operator
from ovround.exporters.openvino.compressed import Stored, read_weight, write_weight
from ovround.exporters.openvino.constants import ConstantFile, Entry, read_entries
from ovround.exporters.openvino.native import write_native
from ovround.exporters.openvino.ops import OpenVINOOps
from ovround.exporters.openvino.saving import count_names, saved
from ovround.exporters.openvino.tokenizer import write_tokenizer
from ovround.exporters.source_files import copy_model_files
from ovround.exporters.target import Weight
from ovround.models.decoder import Decoder
from ovround.tensors.activation_rounding import openvino_group
from ovround.tensors.codebook_tensor import CodebookTensor
from ovround.tensors.qtensor import QTensor

MODEL = "openvino_model"
# What optimum-intel writes for every decoder: float16 GPUs overflow in deep layers without it.
RUNTIME_OPTIONS = {"ACTIVATIONS_SCALE_FACTOR": "8.0"}


class OpenVINOExporter:
    """Writes `openvino_model.bin` as weights arrive and `openvino_model.xml` at the end; see `exporters.target.Exporter`.

    `native_weights`: linear layers of the blocks of 2, 3 and 4 bits as the native operator reads them. Codebooks are for it always.
    """

    def __init__(self, folder: Path, decoder: Decoder, source: Path, *, native_weights: bool = False) -> None:
        self.folder = folder
        self._native_weights = native_weights
        self._native: dict[str, tuple[int, int]] = {}
        self._decoder = decoder
        copy_model_files(source, folder, decoder.config.max_position_embeddings)
        write_tokenizer(source, folder)  # first: a tokenizer that cannot be converted is found before anything is tuned
        experts = decoder.config.experts
        self._file = ConstantFile(folder / f"{MODEL}.bin", experts.count if experts else 0)
        self._stored: dict[str, Stored] = {}
        self._groups: set[int] = set()
        self._entries: dict[str, Entry] = {}

    def write(self, name: str, weight: Weight) -> None:
        if isinstance(weight, CodebookTensor) or (self._native_weights and fits_operator(weight, name)):
            bits, symmetric = (weight.bits, weight.symmetric) if isinstance(weight, QTensor) else (0, False)
            self._stored[name] = Stored(bits, symmetric, weight.shape)
            self._native[name] = weight.shape
            write_native(self._file, name, weight)
            return
        if isinstance(weight, QTensor):
            self._stored[name] = Stored(weight.bits, weight.symmetric)
            self._groups.add(weight.group_size)
        table = name == f"{self._decoder.embedding_at}.weight" or ".experts." in name
        write_weight(self._file, name, weight, table=table)

    def finish(self) -> None:
        ops = OpenVINOOps(self._file, self._native)
        model = ops.model(self._decoder.logits(ops, ops.input_ids), "ovround")
        count_names(model)
        # The plugin's default would be 32 for any weights: a prompt of 256 tokens took 1.36 times as long (docs/log.md).
        options = RUNTIME_OPTIONS | {"DYNAMIC_QUANTIZATION_GROUP_SIZE": str(openvino_group(self._groups))}
        for key, value in options.items() if self._groups else RUNTIME_OPTIONS.items():
            model.set_rt_info(value, ["runtime_options", key])
        self._file.close()
        xml = self.folder / f"{MODEL}.xml"
        # The serialiser's weights file would hold placeholders: it goes to a scratch file that `redirect` makes useless.
        scratch = self.folder / "placeholders.bin"
        saved(xml, lambda: ov.serialize(model, xml, scratch))
        scratch.unlink()
        self._file.redirect(xml)
        self._entries = read_entries(xml)

    def read(self, name: str) -> Weight:
        with self._file.path.open("rb") as file:
            return read_weight(file, self._entries, name, self._stored.get(name))

    def close(self) -> None:
        self._file.close()
