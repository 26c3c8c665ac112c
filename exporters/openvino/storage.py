"""Where the constants of an OpenVINO model lie on disk: element types, places in the weights file, the XML that names both.

IR version 11: `<layer type="Const"><data element_type shape offset size/>`, with offsets into one flat file. The experts of a
layer are one constant, `mlp.experts.*.up_proj.weight` of shape `[E, ...]`, in which each expert has its place.

This module does not import openvino, so a written folder is read and a size is known without it.
"""

from __future__ import annotations

import math
import re
import xml.etree.ElementTree as ElementTree
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray

from ovround.errors import VerifyError
from ovround.exporters.weights_file import read_bytes
from ovround.models.parts.ends import is_table as is_embedding
from ovround.tensors.float_tensor import FloatType

GRAPH_FILE, WEIGHTS_FILE = "openvino_model.xml", "openvino_model.bin"
ALIGNMENT = 64  # a cache line; OpenVINO maps the file and computes on it in place
ELEMENT_BITS = {
    "u2": 2, "u4": 4, "i4": 4, "u8": 8, "i8": 8, "boolean": 8, "f16": 16, "bf16": 16, "f32": 32, "i32": 32, "i64": 64,
}  # fmt: skip
FLOAT_TYPES: dict[FloatType, str] = {"float32": "f32", "float16": "f16", "bfloat16": "bf16"}
EXPERT = re.compile(r"(?<=\.experts\.)\d+(?=\.)")
_ALL_EXPERTS = ".experts.*."


@dataclass(frozen=True, slots=True)
class Entry:
    """One constant: its IR element type, its shape in elements, and where its bytes lie in the weights file."""

    element_type: str
    shape: tuple[int, ...]
    offset: int
    size_bytes: int

    def part(self, index: int) -> Entry:
        """The part at `index` of the first axis."""
        size = self.size_bytes // self.shape[0]
        return Entry(self.element_type, self.shape[1:], self.offset + index * size, size)

    def read(self, source: BinaryIO) -> NDArray[np.uint8]:
        """The bytes, read from an open weights file; raises ValueError when the file is shorter."""
        return read_bytes(source, self.offset, self.size_bytes)


def stored_bytes(element_type: str, shape: Sequence[int]) -> int:
    """Bytes of a constant of this element type and shape."""
    return (math.prod(shape) * ELEMENT_BITS[element_type] + 7) // 8


def element_type(bits: int, symmetric: bool, *, table: bool) -> str:
    """The IR element type of codes of `bits` bits; `table`: see `is_table`."""
    if bits == 8:
        return "i8" if symmetric else "u8"
    if bits == 2 and not table:
        return "u2"
    return "i4" if symmetric else "u4"


def is_table(name: str) -> bool:
    """Whether weight `name` is read by a Gather or belongs to an expert: for these the CPU plugin has no 2-bit kernel."""
    return is_embedding(name.removesuffix(".weight")) or EXPERT.search(name) is not None


def read_entries(xml_path: Path) -> dict[str, Entry]:
    """Every constant of an IR by name, as the XML states it, and the constants of each expert by their own names.

    Raises VerifyError for a constant without data.
    """
    entries: dict[str, Entry] = {}
    tree = ElementTree.parse(xml_path)  # noqa: S314  expat bounds how much entities may grow
    for layer in tree.iterfind("./layers/layer[@type='Const']"):
        name, data = layer.get("name", ""), layer.find("data")
        if data is None:
            raise VerifyError(f"{xml_path.name}: constant `{name}` has no data")
        shape = tuple(int(size) for size in data.get("shape", "").split(",") if size)
        entry = Entry(data.get("element_type", ""), shape, int(data.get("offset", "-1")), int(data.get("size", "-1")))
        entries[name] = entry
        if _ALL_EXPERTS in name and not name.endswith("/shape"):
            entries |= {name.replace("*", str(index), 1): entry.part(index) for index in range(shape[0])}
    return entries
