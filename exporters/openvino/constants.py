"""The weights file of an OpenVINO model, written as tensors arrive, and the constants that stand for them in the graph.

OpenVINO's own serialiser wants every constant in memory at once. Here the bytes are appended to `openvino_model.bin` the
moment a tensor is finished; in the graph the constant is a placeholder over untouched zero pages, and when the graph has
been serialised `redirect` writes each constant's true offset into the XML. So peak memory does not grow with the model.

The experts of a layer arrive one by one and lie behind one another: the graph reads `mlp.experts.*.up_proj.weight`, which is
all of them, `[E, ...]`.

IR version 11: `<layer type="Const"><data element_type shape offset size/>`, offsets into one flat file.
"""

from __future__ import annotations

import math
import re
import xml.etree.ElementTree as ElementTree
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import openvino as ov
from numpy.typing import NDArray
from openvino import opset13 as opset

from ovround.errors import VerifyError

ALIGNMENT = 64  # a cache line; OpenVINO maps the file and computes on it in place
_BITS = {"u2": 2, "u4": 4, "i4": 4, "u8": 8, "i8": 8, "f16": 16, "bf16": 16, "f32": 32, "i32": 32, "i64": 64}
_NUMPY = {"f32": np.float32, "i32": np.int32, "i64": np.int64}
_OV_TYPES = {name: getattr(ov.Type, name) for name in _BITS}


_EXPERT = re.compile(r"(?<=\.experts\.)\d+(?=\.)")


@dataclass(frozen=True, slots=True)
class Entry:
    """One constant: its IR element type, its shape in elements, and where its bytes lie in the weights file."""

    element_type: str
    shape: tuple[int, ...]
    offset: int
    size_bytes: int

    def part(self, place: int) -> Entry:
        """What lies at `place` of the first axis."""
        size = self.size_bytes // self.shape[0]
        return Entry(self.element_type, self.shape[1:], self.offset + place * size, size)


class ConstantFile:
    """Appends constants to the weights file and remembers where each one went; `entries` maps its name to its place.

    `experts` is how many of them a layer has: room for all is made when the first comes.
    """

    def __init__(self, path: Path, experts: int = 0) -> None:
        self.path = path
        self._experts, self._end = experts, 0
        self.entries: dict[str, Entry] = {}
        self._file: BinaryIO = path.open("wb")
        self._zeros: NDArray[np.uint8] = np.zeros(0, np.uint8)
        self._nodes: dict[str, ov.Node] = {}

    def write(self, name: str, element_type: str, shape: Sequence[int], data: NDArray[Any]) -> None:
        """Append the bytes of `data` as the constant `name`; `shape` counts elements, which may be smaller than a byte."""
        payload = np.ascontiguousarray(data)
        expected = _size_bytes(element_type, shape)
        if payload.nbytes != expected or name in self.entries:
            raise ValueError(
                f"constant {name}: {payload.nbytes} bytes for {element_type} {tuple(shape)}, or a second one"
            )
        self.entries[name] = self._room(name, element_type, tuple(shape))
        self._file.seek(self.entries[name].offset)
        self._file.write(payload.data)

    def _room(self, name: str, element_type: str, shape: tuple[int, ...]) -> Entry:
        """Room at the end of the file; for an expert's, its place among those of all experts."""
        expert = _EXPERT.search(name)
        if expert is not None:
            every = _EXPERT.sub("*", name)
            if every not in self.entries:
                self.entries[every] = self._room(every, element_type, (self._experts, *shape))
            if self.entries[every].shape[1:] != shape or self.entries[every].element_type != element_type:
                raise ValueError(f"constant {name}: {element_type} {shape}, unlike {self.entries[every]}")
            return self.entries[every].part(int(expert[0]))
        offset = self._end + -self._end % ALIGNMENT
        self._end = offset + _size_bytes(element_type, shape)
        return Entry(element_type, shape, offset, self._end - offset)

    def node(self, name: str) -> ov.Node:
        """The graph constant that stands for weight `name`: right type and shape, no bytes; one node a name."""
        if name not in self._nodes:
            entry = self.entries[name]
            if self._zeros.nbytes < entry.size_bytes:
                self._zeros = np.zeros(entry.size_bytes, np.uint8)  # calloc: pages that are only read stay unmapped
            kind = _OV_TYPES[entry.element_type]
            tensor = ov.Tensor(self._zeros[: entry.size_bytes], ov.Shape(list(entry.shape)), kind)
            self._keep(name, opset.constant(tensor, shared_memory=True))
        return self._nodes[name]

    def small(self, name: str, element_type: str, values: Any) -> ov.Node:
        """A scalar or short vector of the graph itself (an axis, an epsilon): a true constant, since shapes are inferred from it."""
        if name not in self._nodes:
            array = np.asarray(values, _NUMPY[element_type])
            self.write(name, element_type, array.shape, array)
            self._keep(name, opset.constant(array))
        return self._nodes[name]

    def _keep(self, name: str, node: ov.Node) -> None:
        node.set_friendly_name(name)
        self._nodes[name] = node

    def close(self) -> None:
        self._file.close()

    def redirect(self, xml_path: Path) -> None:
        """Point every constant of a serialised graph at its bytes in this file.

        Raises VerifyError when the graph holds a constant that is not one of `entries`, or holds it with another type.
        """
        tree = ElementTree.parse(xml_path)  # noqa: S314  the file was written a moment ago by this process
        for layer in tree.iterfind("./layers/layer[@type='Const']"):
            name, data = layer.get("name", ""), layer.find("data")
            entry = self.entries.get(name)
            if data is None or entry is None or data.get("element_type") != entry.element_type:
                raise VerifyError(f"constant `{name}` of {xml_path.name} is not one that was written")
            data.set("offset", str(entry.offset))
            data.set("size", str(entry.size_bytes))
        tree.write(xml_path, encoding="utf-8", xml_declaration=True)


def _size_bytes(element_type: str, shape: Sequence[int]) -> int:
    return (math.prod(shape) * _BITS[element_type] + 7) // 8


def read_entries(xml_path: Path) -> dict[str, Entry]:
    """Every constant of an IR by name, as the XML states it, and each expert's by its own: how an exported model is read back."""
    entries: dict[str, Entry] = {}
    tree = ElementTree.parse(xml_path)  # noqa: S314  written by this process, as above
    for layer in tree.iterfind("./layers/layer[@type='Const']"):
        data = layer.find("data")
        if data is None:
            raise VerifyError(f"{xml_path.name}: constant `{layer.get('name')}` has no data")
        shape = tuple(int(size) for size in data.get("shape", "").split(",") if size)
        name = layer.get("name", "")
        entries[name] = entry = Entry(
            data.get("element_type", ""), shape, int(data.get("offset", "-1")), int(data.get("size", "-1"))
        )
        if ".experts.*." in name and not name.endswith("/shape"):
            entries |= {name.replace("*", str(place), 1): entry.part(place) for place in range(shape[0])}
    return entries
