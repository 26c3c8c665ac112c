"""Writes one GGUF file, and beside it the configuration and tokenizer that it was made of; see `exporters.exporter.Exporter`.

A tensor of the file may hold several of the decoder's: projections that llama.cpp joins, or all experts of a layer. It is written
when the last of them has arrived, so that memory holds one block.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ovround.errors import UsageError
from ovround.exporters.exporter import Weight
from ovround.exporters.gguf.affine import encoded_affine
from ovround.exporters.gguf.blocks import encoded
from ovround.exporters.gguf.container import GgufFile
from ovround.exporters.gguf.metadata import decoder_metadata, rope_tensors
from ovround.exporters.gguf.suitability import architecture_of
from ovround.exporters.gguf.tensors import FileTensor, FileWeight, file_tensors, in_file
from ovround.exporters.gguf.tokenizer import tokenizer_metadata
from ovround.exporters.source_files import copy_model_files
from ovround.models.decoder import Decoder
from ovround.tensors.affine_tensor import AffineTensor
from ovround.tensors.codebook_tensor import CodebookTensor
from ovround.tensors.float_tensor import FloatTensor
from ovround.tensors.qtensor import QTensor

FILE = "model.gguf"
_FILE_TYPES = {  # general.file_type
    "F32": 0, "F16": 1, "Q4_0": 2, "Q4_1": 3, "Q8_0": 7, "Q5_0": 8, "Q5_1": 9, "Q2_K": 10, "Q3_K": 12, "Q4_K": 15,
    "Q5_K": 17, "Q6_K": 18, "BF16": 32,
}  # fmt: skip
_FLOATS = {"float32": "F32", "float16": "F16", "bfloat16": "BF16"}


class GgufExporter:
    """Writes weights as they arrive, and the header at the end."""

    def __init__(self, folder: Path, decoder: Decoder, source: Path, config: Mapping[str, Any]) -> None:
        """`source` has the files that are carried along, `config` is the model's config.json.

        Raises UsageError for a family that llama.cpp does not have or computes otherwise.
        """
        self.folder = folder
        architecture = architecture_of(decoder, config)
        self._tensors, self._places = file_tensors(architecture, decoder.every_tensor(), config)
        self._waiting: dict[str, dict[str, FileWeight]] = {}
        self._elements: Counter[str] = Counter()
        copy_model_files(source, folder, decoder.config.max_position_embeddings)
        extra = rope_tensors(decoder)
        metadata = {
            "general.type": "model",
            "general.file_type": 0,
            **decoder_metadata(architecture.name, decoder),
            **tokenizer_metadata(source, decoder.config.vocab_size, architecture.name),
        }
        shapes = {name: tensor.shape for name, tensor in self._tensors.items()}
        shapes |= {name: values.shape for name, values in extra.items()}
        self._file = GgufFile(folder / FILE, architecture.name, metadata, shapes)
        for name, values in extra.items():
            self._file.write(name, "F32", values)

    def write(self, name: str, weight: Weight) -> None:
        if isinstance(weight, CodebookTensor):
            raise TypeError(f"`{name}` is made of codebooks, which gguf cannot hold")
        place = self._places[name]
        for at in place.tensors:
            tensor, waiting = self._tensors[at], self._waiting.setdefault(at, {})
            waiting[name] = in_file(weight, place, at)
            if len(waiting) == len(tensor.parts):
                del self._waiting[at]
                self._write(tensor, [waiting[part] for part in tensor.parts])

    def finish(self) -> None:
        kind = self._elements.most_common(1)[0][0]
        self._file.finish({"general.file_type": _FILE_TYPES[kind]})

    def close(self) -> None:
        self._file.close()

    def _write(self, tensor: FileTensor, parts: Sequence[FileWeight]) -> None:
        kind, data = _bytes(tensor, parts)
        self._file.write(tensor.name, kind, data)
        self._elements[kind] += int(np.prod(tensor.shape)) if tensor.is_matrix else 0


def _bytes(tensor: FileTensor, parts: Sequence[FileWeight]) -> tuple[str, NDArray[Any]]:
    """The type of a tensor and its bytes; raises UsageError for grids that no type holds."""
    floats = [part for part in parts if isinstance(part, FloatTensor)]
    grids = [part for part in parts if isinstance(part, QTensor)]
    if len(floats) == len(parts):
        types = {part.dtype for part in floats}
        if tensor.is_matrix and len(types) == 1:
            return _FLOATS[types.pop()], np.concatenate([part.data for part in floats])
        return "F32", np.concatenate([part.float32() for part in floats])
    found = encoded(grids) if len(grids) == len(parts) else _affine(parts)
    if found is None:
        raise UsageError(
            f"format gguf: no type holds the scales and zero points of `{tensor.name}` exactly",
            hint="start from the original, unquantised checkpoint, or --format openvino or onnx",
        )
    return found


def _affine(parts: Sequence[FileWeight]) -> tuple[str, NDArray[Any]] | None:
    found = [encoded_affine(part) for part in parts if isinstance(part, AffineTensor)]
    kinds = {one[0] for one in found if one is not None}
    if len(found) < len(parts) or None in found or len(kinds) != 1:
        return None
    return kinds.pop(), np.concatenate([one[1] for one in found if one is not None])
