"""The weights file of an OpenVINO model, written as tensors arrive, and the constants that stand for them in the graph.

OpenVINO's own serialiser wants every constant in memory at once. Here the bytes are appended to `openvino_model.bin` the
moment a tensor is finished. In the graph the constant is a placeholder over untouched zero pages. Once the graph has been
serialised, `redirect` writes each constant's true offset into the XML. So peak memory does not grow with the model.

The experts of a layer arrive one by one. Their bytes follow each other, so that the graph can read all of them as one
constant, `mlp.experts.*.up_proj.weight` of shape `[E, ...]`. The format itself is described in `storage.py`.
"""

from __future__ import annotations

import xml.etree.ElementTree as ElementTree
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import openvino as ov
from numpy.typing import NDArray
from openvino import opset13 as opset

from ovround.errors import VerifyError
from ovround.exporters.openvino.storage import ALIGNMENT, ELEMENT_BITS, EXPERT, Entry, stored_bytes

_NUMPY: dict[str, Any] = {"f32": np.float32, "i32": np.int32, "i64": np.int64, "boolean": np.bool_}
_OV_TYPES = {name: getattr(ov.Type, name) for name in ELEMENT_BITS}


class ConstantFile:
    """Appends constants to the weights file; `entries` says where each one lies, by name.

    `experts` is the number of experts a layer has: the first one reserves room for all of them.
    """

    def __init__(self, path: Path, experts: int = 0) -> None:
        self.path = path
        self._experts, self._end = experts, 0
        self.entries: dict[str, Entry] = {}
        self._file: BinaryIO = path.open("wb")
        self._zeros: list[NDArray[np.uint8]] = [np.zeros(0, np.uint8)]  # all of them: constants borrow their memory
        self._nodes: dict[str, ov.Node] = {}

    def write(self, name: str, element_type: str, shape: Sequence[int], data: NDArray[Any]) -> None:
        """Append the bytes of `data` as the constant `name`; `shape` counts elements, which may be smaller than a byte."""
        self.write_parts(name, element_type, shape, (data,))

    def write_parts(self, name: str, element_type: str, shape: Sequence[int], parts: Iterable[NDArray[Any]]) -> None:
        """Append a constant whose bytes are those of `parts`, one after another, so that only one of them need exist."""
        size_bytes, twice = 0, name in self.entries
        if not twice:
            self.entries[name] = self._room(name, element_type, tuple(shape))
            self._file.seek(self.entries[name].offset)
        for part in parts:
            payload = np.ascontiguousarray(part)
            size_bytes += payload.nbytes
            if not twice and size_bytes <= self.entries[name].size_bytes:
                self._file.write(payload.data)
        if twice or size_bytes != self.entries[name].size_bytes:
            raise ValueError(f"constant {name}: {size_bytes} bytes for {element_type} {tuple(shape)}, or a second one")

    def _room(self, name: str, element_type: str, shape: tuple[int, ...]) -> Entry:
        """The next free place in the file; for an expert's constant, its part of the constant of all experts."""
        expert = EXPERT.search(name)
        if expert is not None:
            stack = EXPERT.sub("*", name)
            if stack not in self.entries:
                self.entries[stack] = self._room(stack, element_type, (self._experts, *shape))
            if self.entries[stack].shape[1:] != shape or self.entries[stack].element_type != element_type:
                raise ValueError(f"constant {name}: {element_type} {shape}, unlike {self.entries[stack]}")
            return self.entries[stack].part(int(expert[0]))
        offset = self._end + -self._end % ALIGNMENT
        self._end = offset + stored_bytes(element_type, shape)
        return Entry(element_type, shape, offset, self._end - offset)

    def node(self, name: str) -> ov.Node:
        """The graph constant that stands for weight `name`: right type and shape, no bytes; one node a name."""
        if name not in self._nodes:
            entry = self.entries[name]
            if self._zeros[-1].nbytes < entry.size_bytes:
                self._zeros.append(
                    np.zeros(entry.size_bytes, np.uint8)
                )  # calloc: pages that are only read stay unmapped
            kind = _OV_TYPES[entry.element_type]
            tensor = ov.Tensor(self._zeros[-1][: entry.size_bytes], ov.Shape(list(entry.shape)), kind)
            self._keep(name, opset.constant(tensor, shared_memory=True))
        return self._nodes[name]

    def small(self, name: str, element_type: str, values: Any) -> ov.Node:
        """A scalar or short vector of the graph itself (an axis, an epsilon); its values are real, since shapes follow from them."""
        if name not in self._nodes:
            array = np.asarray(values, _NUMPY[element_type])
            self.write(name, element_type, array.shape, array)
            self._keep(name, opset.constant(array))
        return self._nodes[name]

    def inner(self, name: str, element_type: str, values: Any) -> ov.Node:
        """As `small`, for the body of a loop, which shares no node with the graph around it or with another body."""
        self.small(name, element_type, values)
        node = opset.constant(np.asarray(values, _NUMPY[element_type]))
        node.set_friendly_name(name)
        return node

    def _keep(self, name: str, node: ov.Node) -> None:
        node.set_friendly_name(name)
        self._nodes[name] = node

    def close(self) -> None:
        self._file.close()

    def redirect(self, xml_path: Path) -> None:
        """Point every constant of a serialised graph at its bytes in this file.

        Raises VerifyError when the graph holds a constant that is not one of `entries`, or holds it with another type.
        """
        tree = ElementTree.parse(xml_path)  # noqa: S314  this process wrote the file a moment ago
        for layer in tree.iterfind(".//layers/layer[@type='Const']"):  # in the bodies of loops too
            name, data = layer.get("name", ""), layer.find("data")
            entry = self.entries.get(name)
            if data is None or entry is None or data.get("element_type") != entry.element_type:
                raise VerifyError(f"constant `{name}` of {xml_path.name} is not one that was written")
            data.set("offset", str(entry.offset))
            data.set("size", str(entry.size_bytes))
        tree.write(xml_path, encoding="utf-8", xml_declaration=True)
