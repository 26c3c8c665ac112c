"""The tensors of a GGUF file, each made of one or several of the decoder's (`checkpoint.gguf.places`), and their rows' order."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from ovround.checkpoint.gguf.architectures import Architecture
from ovround.checkpoint.gguf.places import Place, Shape, places
from ovround.tensors.affine_tensor import AffineTensor
from ovround.tensors.float_tensor import FloatTensor
from ovround.tensors.qtensor import QTensor

FileWeight = QTensor | FloatTensor | AffineTensor
_FLOAT32 = ("position_embd", "ffn_gate_inp", "ffn_gate_inp_shexp")  # matrices that llama.cpp wants in float32
_SQUEEZED = "ffn_gate_inp_shexp"  # one row, without its first axis


@dataclass(frozen=True, slots=True)
class FileTensor:
    """A tensor of the file: `parts` are the decoder's tensors in its rows' order, `shape` the first axis first."""

    name: str
    shape: Shape
    parts: tuple[str, ...]

    @property
    def is_matrix(self) -> bool:
        """Whether it may be in another type than float32."""
        return len(self.shape) > 1 and self.name.endswith(".weight") and self.name.split(".")[-2] not in _FLOAT32


def file_tensors(
    architecture: Architecture, shapes: Mapping[str, Shape], config: Mapping[str, object]
) -> tuple[dict[str, FileTensor], dict[str, Place]]:
    """The file's tensors by their name, and the place of each of the decoder's."""
    at = places(architecture, shapes, config)
    held: dict[str, list[str]] = {}
    for name, place in at.items():
        for tensor in place.tensors:
            held.setdefault(tensor, []).append(name)
    found = {}
    for tensor, names in held.items():
        names.sort(key=lambda name: (at[name].index or 0, getattr(at[name].rows, "start", 0)))
        found[tensor] = FileTensor(tensor, _shape(tensor, [shapes[name] for name in names], at[names[0]]), tuple(names))
    return found, at


def _shape(tensor: str, parts: list[Shape], place: Place) -> Shape:
    rows = sum(shape[0] for shape in parts) // len(place.tensors)
    if place.index is not None:
        return (len(parts), rows // len(parts), *parts[0][1:])
    return parts[0][1:] if tensor.split(".")[-2] == _SQUEEZED else (rows, *parts[0][1:])


def in_file(weight: FileWeight, place: Place, tensor: str) -> FileWeight:
    """The rows of `weight` that lie in `tensor` of the file, in its order."""
    if place.heads:
        rows = np.arange(weight.shape[0]).reshape(place.heads, 2, -1).swapaxes(1, 2).reshape(-1)
        return _taken(weight, rows)
    if place.other is not None:
        return _taken(weight, np.arange(tensor == place.other, weight.shape[0], 2))
    return weight


def _taken(weight: FileWeight, rows: NDArray[np.intp]) -> FileWeight:
    if isinstance(weight, AffineTensor):
        return weight.take(rows)
    if isinstance(weight, FloatTensor):
        return replace(weight, data=weight.data[rows])
    zero_points = None if weight.zero_points is None else weight.zero_points[rows]
    return replace(weight, codes=weight.codes[rows], scales=weight.scales[rows], zero_points=zero_points)
