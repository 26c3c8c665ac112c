"""ONNX models with `QuantizedLinear` nodes, expanded: what is done when they are loaded without the native library.

Nodes become ONNX Runtime's own, in memory alone: codebooks a product with float16, which ONNX Runtime widens, integers
MatMulNBits with the same integers in 4 bits. The session refers to what is expanded here, and keeps copies in an order of its
own: hence the memory that a warning states.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from google.protobuf.message import DecodeError
from numpy.typing import NDArray

from ovround.errors import ArtifactError
from ovround.runtime.engines.onnx_messages import EXTERNAL, FLOAT, FLOAT16, INT, UINT8, Model, Node, Tensor
from ovround.tensors import native_layout as layout
from ovround.tensors.native_layout import CODEBOOK, INTEGERS, OPERATOR, OPSET, RUN

_MICROSOFT = "com.microsoft"
_TYPES = {"uint8": UINT8, "float16": FLOAT16, "float32": FLOAT}
_BLOCKS = (256, 128, 64, 32)  # of MatMulNBits
_SPLIT = 128  # the largest block of a group that is none itself


@dataclass(slots=True)
class Expanded:
    """A model without native nodes, and the initializers that belong to it, by name.

    `before` and `after` are bytes: of the native weights, and of what stands in their place, the session's copies included.
    """

    model: bytes = b""
    initializers: dict[str, NDArray[Any]] = field(default_factory=dict)
    count: int = 0
    before: int = 0
    after: int = 0


def expand(model: bytes, path: Path, *, exact: bool) -> Expanded:
    """Replace each native node of `model`, read from `path`, by a product of ONNX Runtime's own.

    Raises ArtifactError for a weight that is damaged.
    """
    try:
        parsed = Model.FromString(model)
    except DecodeError as error:
        raise ArtifactError(f"`{path}` is damaged: {error}") from error
    graph, found = parsed.graph, Expanded()
    tensors = {tensor.name: tensor for tensor in graph.initializer}
    nodes: list[Any] = []
    parts: set[str] = set()
    for node in graph.node:
        if (node.op_type, node.domain) != (OPERATOR, OPSET):
            nodes.append(node)
            continue
        parts.update(node.input[1:])
        try:
            nodes.extend(_replaced(node, tensors, path.parent, found, exact))
        except (ValueError, IndexError, KeyError, OSError) as error:
            raise ArtifactError(f"`{path}`: `{node.name}` is damaged: {error}") from error
    kept = [tensor for tensor in graph.initializer if tensor.name not in parts]
    opsets = [opset for opset in parsed.opset_import if opset.domain != OPSET]
    added = [_external(name, array) for name, array in found.initializers.items()]
    for target, values in ((graph.node, nodes), (graph.initializer, [*kept, *added]), (parsed.opset_import, opsets)):
        del target[:]
        target.extend(values)
    found.model = parsed.SerializeToString()
    return found


def _replaced(node: Any, tensors: Mapping[str, Any], folder: Path, found: Expanded, exact: bool) -> list[Any]:
    """The nodes that stand in place of `node`; their weight is added to `found`."""
    attributes = {one.name: one.s.decode() if one.s else one.i for one in node.attribute}
    weights, outputs, inputs = attributes["weights"], attributes["outputs"], attributes["inputs"]
    x, *names = node.input
    parts = [_read(tensors[name], folder) for name in names]
    if len(parts) != 3:
        raise ValueError(f"it has {len(parts)} constants; 3 are needed")
    found.count += 1
    found.before += sum(part.nbytes for part in parts)
    if weights == CODEBOOK:
        return _float_product(node, x, layout.expand_codebook(*parts), (outputs, inputs), found)
    bits = next((bits for bits, name in INTEGERS.items() if name == weights), None)
    if bits is None:
        raise ValueError(f"weights are `{weights}`")
    groups = parts[1].shape[1]
    sizes = layout.integer_bytes(bits, outputs, inputs, groups)
    whole = groups == 1 or inputs % (groups * RUN) == 0
    if not whole or [part.size for part in parts[:2]] != list(sizes[:2]) or parts[2].size not in (1, sizes[2]):
        raise ValueError(f"{weights} {[part.shape for part in parts]} are not those of {[outputs, inputs]}")
    return _integer_product(node, x, bits, parts, (outputs, inputs), found, exact)


def _float_product(node: Any, x: str, weight: Any, shape: tuple[int, int], found: Expanded) -> list[Any]:
    if weight.shape != shape:
        raise ValueError(f"codebooks of {list(weight.shape)} are not those of {list(shape)}")
    name = f"{node.name}/expanded"
    found.initializers[name] = weight
    found.after += weight.nbytes + 2 * weight.nbytes  # ONNX Runtime's own is of float32
    wide = Node(op_type="Cast", name=f"{name}/cast", input=[name], output=[f"{name}/float"])
    _set(wide, to=1)  # float32
    node.op_type, node.domain = "FusedMatMul", _MICROSOFT
    node.input[:] = [x, f"{name}/float"]
    _set(node, transB=1)
    return [wide, node]


def _integer_product(
    node: Any, x: str, bits: int, parts: list[Any], shape: tuple[int, int], found: Expanded, exact: bool
) -> list[Any]:
    """MatMulNBits, laid out as `ovround.exporters.onnx.matmul_nbits` states it."""
    rows, columns = shape
    stored = 8 if bits == 8 else 4
    codes = layout.unpack_integers(parts[0], bits, rows, columns)
    scales = layout.unpack_qparams(layout.bytes_as_halves(parts[1]), rows).astype(np.float32)
    groups = scales.shape[1]
    zeros = (
        np.full((rows, groups), parts[2].reshape(-1)[0])
        if parts[2].size == 1
        else layout.unpack_qparams(parts[2], rows)
    )
    if int(zeros.max()) >= 1 << stored:
        raise ValueError(f"zero point {zeros.max()} is beyond {stored} bits")
    group = columns // groups
    block = (
        group if group in _BLOCKS else next((size for size in _BLOCKS if size <= _SPLIT and not group % size), _SPLIT)
    )
    blocks = -(-columns // block)
    scales, zeros = (np.repeat(values, blocks // groups, axis=1) for values in (scales, zeros))
    padding = np.repeat(zeros[:, -1:], blocks * block - columns, axis=1)  # worth 0
    codes = np.concatenate([codes, padding], axis=1)
    symmetric = (
        zeros == 1 << (bits - 1)
    ).all()  # then the operator's own zero point serves, which it knows without memory
    if symmetric:
        codes += np.uint8((1 << (stored - 1)) - (1 << (bits - 1)))
    made = {"codes": _packed(codes, stored).reshape(rows, blocks, -1), "scales": scales}
    if not symmetric:
        made["zero_points"] = _packed(zeros, stored)
    made = {f"{node.name}/expanded/{part}": np.ascontiguousarray(values) for part, values in made.items()}
    found.initializers |= made
    found.after += 2 * sum(values.nbytes for values in made.values())
    node.op_type, node.domain = "MatMulNBits", _MICROSOFT
    node.input[:] = [x, *made]
    _set(node, N=rows, K=columns, bits=stored, block_size=block, accuracy_level=0 if exact else 4)
    return [node]


def _packed(codes: Any, bits: int) -> Any:
    """Codes `[N, C]`, of 4 bits two in a byte, the first in its lower half."""
    if bits == 8:
        return codes
    even = np.pad(codes, ((0, 0), (0, codes.shape[1] % 2)))
    return even[:, 0::2] | (even[:, 1::2] << np.uint8(4))


def _set(node: Any, **attributes: int) -> None:
    del node.attribute[:]
    for name, value in attributes.items():
        node.attribute.add(name=name, i=value, type=INT)


def _external(name: str, array: NDArray[Any]) -> Any:
    """An initializer whose bytes the session is given."""
    tensor = Tensor(name=name, data_type=_TYPES[array.dtype.name], dims=array.shape, data_location=EXTERNAL)
    tensor.external_data.add(key="location", value="expanded")
    return tensor


def _read(tensor: Any, folder: Path) -> NDArray[np.uint8]:
    """The bytes of an initializer in a file of `folder`."""
    place = {entry.key: entry.value for entry in tensor.external_data}
    shape, location = tuple(tensor.dims), place.get("location", "")
    if tensor.data_location != EXTERNAL or not location or Path(location).name != location:
        raise ValueError(f"`{tensor.name}` lies in `{location}`; a file of the folder is needed")
    offset, size = int(place["offset"]), int(place["length"])
    if tensor.data_type != UINT8 or offset < 0 or min(shape, default=0) < 1 or math.prod(shape) != size:
        raise ValueError(f"`{tensor.name}` {list(shape)} has {size} bytes at {offset}")
    with (folder / location).open("rb") as file:
        file.seek(offset)
        data = np.frombuffer(file.read(size), np.uint8)
    if data.size != size:
        raise ValueError(f"`{tensor.name}` has {data.size} of {size} bytes")
    return data.reshape(shape)
