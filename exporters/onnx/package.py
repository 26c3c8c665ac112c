"""The ONNX folder: graph, weights, genai_config.json and the checkpoint's tokenizer, as genai reads them."""

from __future__ import annotations

from pathlib import Path

from ovround import __version__
from ovround.exporters.exporter import Weight
from ovround.exporters.native_parts import fits_operator
from ovround.exporters.onnx.external_data import FUSED_KEY, GRAPH_FILE, WEIGHTS_FILE, DataFile
from ovround.exporters.onnx.fused import FusedWeight, fuse, fused_weights, to_metadata
from ovround.exporters.onnx.genai_config import write_genai_config
from ovround.exporters.onnx.matmul_nbits import Layout, write_weight
from ovround.exporters.onnx.native import write_native, write_rows
from ovround.exporters.onnx.ops import OnnxOps
from ovround.exporters.onnx.suitability import check_onnx_attention
from ovround.exporters.source_files import copy_model_files
from ovround.models.calls import check_verbs
from ovround.models.decoder import Decoder
from ovround.models.parts.ends import is_table
from ovround.tensors.affine_tensor import AffineTensor
from ovround.tensors.codebook_tensor import CodebookTensor


class OnnxExporter:
    """Writes `model.onnx.data` as weights arrive and `model.onnx` at the end; see `exporters.exporter.Exporter`.

    `native_weights`: linear layers of 2, 3 and 4 bits are written for the native operator. Codebooks and affine integers
    always are; an affine embedding is also, or only, written as rows that the graph looks up.

    Raises ArchitectureError, before anything is written, for heads that ONNX Runtime cannot attend with and for a verb that is
    not built for ONNX.
    """

    def __init__(self, folder: Path, decoder: Decoder, source: Path, *, native_weights: bool = False) -> None:
        check_verbs(decoder, "onnx")
        check_onnx_attention(decoder)
        self.folder = folder
        self._decoder = decoder
        self._source = source
        self._file = DataFile(folder / WEIGHTS_FILE)
        self._layouts: dict[str, Layout] = {}
        self._fused_by_part = fused_weights(decoder)
        self._native_weights = native_weights
        self._native: dict[str, tuple[int, int]] = {}  # the shapes of the native operator's weights
        self._rows: dict[str, int] = {}  # the zero point of an affine embedding
        self._held: dict[str, dict[str, Weight]] = {}  # parts of a fused weight that is not complete yet
        self._fused: list[FusedWeight] = []  # that were written

    def write(self, name: str, weight: Weight) -> None:
        fused = self._fused_by_part.get(name)
        if fused is None:
            self._write(name, weight)
            return
        parts = self._held.setdefault(fused.name, {})
        parts[name] = weight
        if len(parts) == len(fused.rows):
            self._write_fused(fused, self._held.pop(fused.name))

    def _write_fused(self, fused: FusedWeight, parts: dict[str, Weight]) -> None:
        native = self._native_weights and any(fits_operator(weight, name) for name, weight in parts.items())
        whole = None if native else fuse([parts[name] for name in fused.rows])
        if whole is None:
            for name, weight in parts.items():
                self._write(name, weight)
            return
        self._write(fused.name, whole)
        self._fused.append(fused)

    def _write(self, name: str, weight: Weight) -> None:
        table = is_table(name.removesuffix(".weight"))
        if isinstance(weight, AffineTensor) and table:
            self._rows[name] = weight.zero_point
            write_rows(self._file, name, weight)
            if name != f"{self._decoder.head_at}.weight":
                return
        if isinstance(weight, AffineTensor | CodebookTensor) or (self._native_weights and fits_operator(weight, name)):
            self._native[name] = weight.shape
            write_native(self._file, name, weight)
            return
        layout = write_weight(self._file, name, weight, table=table)
        if layout is not None:
            self._layouts[name] = layout

    def finish(self) -> None:
        ops = OnnxOps(
            self._file,
            self._layouts,
            self._decoder.config,
            self._decoder.states(),
            self._fused,
            self._native,
            self._rows,
        )
        model = ops.model(self._decoder.logits(ops, ops.input_ids), __version__)
        if self._fused:
            model.metadata_props.add(key=FUSED_KEY, value=to_metadata(self._fused))
        self._file.close()
        (self.folder / GRAPH_FILE).write_bytes(model.SerializeToString(deterministic=True))
        copy_model_files(self._source, self.folder, self._decoder.config.max_position_embeddings)
        write_genai_config(self._source, self.folder, self._decoder, GRAPH_FILE)

    def close(self) -> None:
        self._file.close()
