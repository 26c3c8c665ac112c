"""The OpenVINO folder: weights, graph, tokenizer graphs, in the layout of openvino_genai and optimum-intel."""

from __future__ import annotations

from pathlib import Path

import openvino as ov

from ovround.exporters.exporter import Weight
from ovround.exporters.native_parts import fits_operator
from ovround.exporters.openvino.compressed import write_weight
from ovround.exporters.openvino.constants import ConstantFile
from ovround.exporters.openvino.native import write_native, write_rows
from ovround.exporters.openvino.ops import OpenVINOOps
from ovround.exporters.openvino.saving import count_names, saved
from ovround.exporters.openvino.storage import GRAPH_FILE, WEIGHTS_FILE, is_table
from ovround.exporters.openvino.tokenizer import write_tokenizer
from ovround.exporters.source_files import copy_model_files
from ovround.models.calls import check_verbs
from ovround.models.decoder import Decoder
from ovround.models.parts.ends import is_table as is_embedding
from ovround.tensors.activation_rounding import openvino_group
from ovround.tensors.affine_tensor import AffineTensor
from ovround.tensors.codebook_tensor import CodebookTensor
from ovround.tensors.qtensor import QTensor

# What optimum-intel writes for every decoder: float16 GPUs overflow in deep layers without it.
RUNTIME_OPTIONS = {"ACTIVATIONS_SCALE_FACTOR": "8.0"}


class OpenVINOExporter:
    """Writes `openvino_model.bin` as weights arrive and `openvino_model.xml` at the end; see `exporters.exporter.Exporter`.

    `native_weights`: linear layers of 2, 3 and 4 bits are written for the native operator. Codebooks and affine integers
    always are; an affine embedding is also, or only, written as rows that the graph looks up.

    Raises ArchitectureError, before anything is written, for a verb that is not built for OpenVINO.
    """

    def __init__(self, folder: Path, decoder: Decoder, source: Path, *, native_weights: bool = False) -> None:
        check_verbs(decoder, "openvino")
        self.folder = folder
        self._decoder, self._native_weights = decoder, native_weights
        copy_model_files(source, folder, decoder.config.max_position_embeddings)
        write_tokenizer(source, folder)  # first: a tokenizer that cannot be converted is found before anything is tuned
        self._file = ConstantFile(folder / WEIGHTS_FILE, decoder.largest_stack)
        self._native: dict[str, tuple[int, int]] = {}  # the shapes of the native operator's weights
        self._rows: dict[str, int] = {}  # the zero point of an affine embedding
        self._groups: set[int] = set()

    def write(self, name: str, weight: Weight) -> None:
        if isinstance(weight, AffineTensor) and is_embedding(name.removesuffix(".weight")):
            self._rows[name] = weight.zero_point
            write_rows(self._file, name, weight)
            if name != f"{self._decoder.head_at}.weight":
                return
        if isinstance(weight, AffineTensor | CodebookTensor) or (self._native_weights and fits_operator(weight, name)):
            self._native[name] = weight.shape
            write_native(self._file, name, weight)
            return
        if isinstance(weight, QTensor):
            self._groups.add(weight.group_size)
        write_weight(self._file, name, weight, table=is_table(name))

    def finish(self) -> None:
        ops = OpenVINOOps(self._file, self._decoder.states(), self._native, self._rows)
        model = ops.model(self._decoder.logits(ops, ops.input_ids), "ovround")
        count_names(model)
        # The plugin's default is 32 for any weights: a prompt of 256 tokens took 1.36 times as long with it.
        options = RUNTIME_OPTIONS | {"DYNAMIC_QUANTIZATION_GROUP_SIZE": str(openvino_group(self._groups))}
        for key, value in options.items() if self._groups else RUNTIME_OPTIONS.items():
            model.set_rt_info(value, ["runtime_options", key])
        self._file.close()
        xml = self.folder / GRAPH_FILE
        # The serialiser's own weights file holds placeholders only; `redirect` makes it useless.
        scratch = self.folder / "placeholders.bin"
        saved(xml, lambda: ov.serialize(model, xml, scratch))
        scratch.unlink()
        self._file.redirect(xml)

    def close(self) -> None:
        self._file.close()
