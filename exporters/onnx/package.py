"""The ONNX folder: graph, weights, genai_config.json and the checkpoint's tokenizer, as genai reads them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from ovround import __version__
from ovround.errors import ArchitectureError
from ovround.exporters.native_parts import fits_operator
from ovround.exporters.onnx.external_data import JOINT, DataFile, Entry, read_entries
from ovround.exporters.onnx.fused import FusedWeight, joined, joints_of, to_metadata
from ovround.exporters.onnx.genai_config import write_genai_config
from ovround.exporters.onnx.matmul_nbits import Layout, read_weight, write_weight
from ovround.exporters.onnx.native import NativeLayout, read_native_weight, write_native
from ovround.exporters.onnx.ops import HEAD_MULTIPLE, OnnxOps
from ovround.exporters.source_files import copy_model_files
from ovround.exporters.target import Weight
from ovround.models.calls import attention_specs, check_verbs
from ovround.models.decoder import Decoder
from ovround.tensors.codebook_tensor import CodebookTensor

MODEL = "model.onnx"


class OnnxExporter:
    """Writes `model.onnx.data` as weights arrive and `model.onnx` at the end; see `exporters.target.Exporter`.

    `native_weights`: linear layers of the blocks of 2, 3 and 4 bits as the native operator reads them. Codebooks are for it always.

    Raises ArchitectureError, before anything is written, for heads that ONNX Runtime cannot attend with and for a verb that is
    not built for ONNX.
    """

    def __init__(self, folder: Path, decoder: Decoder, source: Path, *, native_weights: bool = False) -> None:
        check_verbs(decoder, "onnx")
        sizes = (spec.head_dim for spec in attention_specs(decoder))
        head_dim = next((size for size in sizes if size % HEAD_MULTIPLE), None)
        if head_dim is not None:
            raise ArchitectureError(
                f"head_dim is {head_dim}; ONNX Runtime's attention needs a multiple of {HEAD_MULTIPLE}",
                hint="--format openvino takes any",
            )
        self.folder = folder
        self._decoder = decoder
        self._source = source
        self._file = DataFile(folder / f"{MODEL}.data")
        self._layouts: dict[str, Layout] = {}
        self._joints = joints_of(decoder)
        self._native_weights = native_weights
        self._native: dict[str, NativeLayout] = {}
        self._held: dict[str, dict[str, Weight]] = {}  # parts of a joint weight of which some are still to come
        self._joined: list[FusedWeight] = []
        self._entries: dict[str, Entry] = {}

    def write(self, name: str, weight: Weight) -> None:
        joint = self._joints.get(name)
        if joint is None:
            self._write(name, weight)
            return
        parts = self._held.setdefault(joint.name, {})
        parts[name] = weight
        if len(parts) == len(joint.rows):
            self._write_joint(joint, self._held.pop(joint.name))

    def _write_joint(self, joint: FusedWeight, parts: dict[str, Weight]) -> None:
        native = self._native_weights and any(fits_operator(weight, name) for name, weight in parts.items())
        whole = None if native else joined([parts[name] for name in joint.rows])  # of codebooks nothing is joined
        if whole is None:
            for name, weight in parts.items():
                self._write(name, weight)
            return
        self._write(joint.name, whole)
        layout = self._layouts[joint.name]
        self._layouts |= {name: replace(layout, shape=(rows, layout.shape[1])) for name, rows in joint.rows.items()}
        self._joined.append(joint)

    def _write(self, name: str, weight: Weight) -> None:
        if isinstance(weight, CodebookTensor) or (self._native_weights and fits_operator(weight, name)):
            self._native[name] = write_native(self._file, name, weight)
            return
        layout = write_weight(self._file, name, weight, table=name == f"{self._decoder.embedding_at}.weight")
        if layout is not None:
            self._layouts[name] = layout

    def finish(self) -> None:
        native = {name: layout.shape for name, layout in self._native.items()}
        ops = OnnxOps(self._file, self._layouts, self._decoder.config, self._decoder.states(), self._joined, native)
        model = ops.model(self._decoder.logits(ops, ops.input_ids), __version__)
        if self._joined:
            model.metadata_props.add(key=JOINT, value=to_metadata(self._joined))
        self._file.close()
        path = self.folder / MODEL
        path.write_bytes(model.SerializeToString(deterministic=True))
        copy_model_files(self._source, self.folder, self._decoder.config.max_position_embeddings)
        write_genai_config(self._source, self.folder, self._decoder, MODEL)
        self._entries = read_entries(path, self._file.path.name)

    def read(self, name: str) -> Weight:
        native = self._native.get(name)
        with self._file.path.open("rb") as file:
            if native is not None:
                return read_native_weight(file, self._entries, name, native)
            return read_weight(file, self._entries, name, self._layouts.get(name))

    def close(self) -> None:
        self._file.close()
