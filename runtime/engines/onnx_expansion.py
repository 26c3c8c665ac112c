"""Expansion of ONNX models with `QuantizedLinear` nodes, for loading without the native library.

The nodes become ONNX Runtime's own, in memory only. Codebooks and affine integers become a product with float16, which ONNX
Runtime widens; other integers become MatMulNBits with the same integers in 4 bits. The session also keeps repacked copies; the
memory in the warning includes them.
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
from ovround.tensors.native_layout import AFFINE, CODEBOOK, INTEGERS, OPERATOR, OPSET, RUN

_MICROSOFT = "com.microsoft"
_TYPES = {"uint8": UINT8, "float16": FLOAT16, "float32": FLOAT}
_BLOCKS = (256, 128, 64, 32)  # of MatMulNBits
_SPLIT = 128  # the largest block for a group whose own size is no block size


@dataclass(slots=True)
class Expanded:
    """A model without native nodes, and its new initializers by name.

    `before` and `after` are bytes of the native weights and of their replacement, including the session's copies.
    """

    model: bytes = b""
    initializers: dict[str, NDArray[Any]] = field(default_factory=dict)
    count: int = 0
    before: int = 0
    after: int = 0


def expand(model: bytes, path: Path, *, exact: bool) -> Expanded:
    """Replace each native node of `model`, read from `path`, by ONNX Runtime's own product.

    Raises ArtifactError for a damaged weight.
    """
    try:
        parsed = Model.FromString(model)
    except DecodeError as error:
        raise ArtifactError(f"`{path}` is damaged: {error}") from error
    graph, expanded = parsed.graph, Expanded()
    tensors = {tensor.name: tensor for tensor in graph.initializer}
    nodes: list[Any] = []
    parts: set[str] = set()
    for node in graph.node:
        if (node.op_type, node.domain) != (OPERATOR, OPSET):
            nodes.append(node)
            continue
        parts.update(node.input[1:])
        try:
            nodes.extend(_replaced(node, tensors, path.parent, expanded, exact))
        except (ValueError, IndexError, KeyError, OSError) as error:
            raise ArtifactError(f"`{path}`: `{node.name}` is damaged: {error}") from error
    kept = [tensor for tensor in graph.initializer if tensor.name not in parts]
    opsets = [opset for opset in parsed.opset_import if opset.domain != OPSET]
    added = [_external(name, array) for name, array in expanded.initializers.items()]
    for repeated, values in ((graph.node, nodes), (graph.initializer, [*kept, *added]), (parsed.opset_import, opsets)):
        del repeated[:]
        repeated.extend(values)
    expanded.model = parsed.SerializeToString()
    return expanded


def _replaced(node: Any, tensors: Mapping[str, Any], folder: Path, expanded: Expanded, exact: bool) -> list[Any]:
    """The nodes that replace `node`; their weight is added to `expanded`."""
    attributes = {entry.name: entry.s.decode() if entry.s else entry.i for entry in node.attribute}
    weights, outputs, inputs = attributes["weights"], attributes["outputs"], attributes["inputs"]
    x, *names = node.input
    parts = [_read(tensors[name], folder) for name in names]
    if len(parts) != 3:
        raise ValueError(f"it has {len(parts)} constants; 3 are needed")
    expanded.count += 1
    expanded.before += sum(part.nbytes for part in parts)
    if weights == CODEBOOK:
        return _float_product(node, x, layout.expand_codebook(*parts), (outputs, inputs), expanded)
    if weights in AFFINE.values():
        weight = layout.expand_affine(parts, int(weights[-1]), (outputs, inputs))
        return _float_product(node, x, weight, (outputs, inputs), expanded)
    bits = next((bits for bits, name in INTEGERS.items() if name == weights), None)
    if bits is None:
        raise ValueError(f"weights are `{weights}`")
    groups = parts[1].shape[1]
    sizes = layout.integer_bytes(bits, outputs, inputs, groups)
    is_aligned = groups == 1 or inputs % (groups * RUN) == 0
    if not is_aligned or [part.size for part in parts[:2]] != list(sizes[:2]) or parts[2].size not in (1, sizes[2]):
        raise ValueError(f"{weights} {[part.shape for part in parts]} are not those of {[outputs, inputs]}")
    return _integer_product(node, x, bits, parts, (outputs, inputs), expanded, exact)


def _float_product(node: Any, x: str, weight: Any, shape: tuple[int, int], expanded: Expanded) -> list[Any]:
    if weight.shape != shape:
        raise ValueError(f"weights of {list(weight.shape)} are not those of {list(shape)}")
    name = f"{node.name}/expanded"
    expanded.initializers[name] = weight
    expanded.after += weight.nbytes + 2 * weight.nbytes  # ONNX Runtime's copy has float32
    wide = Node(op_type="Cast", name=f"{name}/cast", input=[name], output=[f"{name}/float"])
    _set(wide, to=1)  # float32
    node.op_type, node.domain = "FusedMatMul", _MICROSOFT
    node.input[:] = [x, f"{name}/float"]
    _set(node, transB=1)
    return [wide, node]


def _integer_product(
    node: Any, x: str, bits: int, parts: list[Any], shape: tuple[int, int], expanded: Expanded, exact: bool
) -> list[Any]:
    """MatMulNBits in the layout of `ovround.exporters.onnx.matmul_nbits`."""
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
    padding = np.repeat(zeros[:, -1:], blocks * block - columns, axis=1)  # with the value 0
    codes = np.concatenate([codes, padding], axis=1)
    symmetric = (zeros == 1 << (bits - 1)).all()  # then the operator's default zero point is right, and needs no memory
    if symmetric:
        codes += np.uint8((1 << (stored - 1)) - (1 << (bits - 1)))
    new_parts = {"codes": _packed(codes, stored).reshape(rows, blocks, -1), "scales": scales}
    if not symmetric:
        new_parts["zero_points"] = _packed(zeros, stored)
    initializers = {f"{node.name}/expanded/{part}": np.ascontiguousarray(values) for part, values in new_parts.items()}
    expanded.initializers |= initializers
    expanded.after += 2 * sum(values.nbytes for values in initializers.values())
    node.op_type, node.domain = "MatMulNBits", _MICROSOFT
    node.input[:] = [x, *initializers]
    _set(node, N=rows, K=columns, bits=stored, block_size=block, accuracy_level=0 if exact else 4)
    return [node]


def _packed(codes: Any, bits: int) -> Any:
    """Codes `[N, C]` as bytes; two 4-bit codes share a byte, the first in its lower half."""
    if bits == 8:
        return codes
    even = np.pad(codes, ((0, 0), (0, codes.shape[1] % 2)))
    return even[:, 0::2] | (even[:, 1::2] << np.uint8(4))


def _set(node: Any, **attributes: int) -> None:
    del node.attribute[:]
    for name, value in attributes.items():
        node.attribute.add(name=name, i=value, type=INT)


def _external(name: str, array: NDArray[Any]) -> Any:
    """An initializer whose bytes are given to the session."""
    tensor = Tensor(name=name, data_type=_TYPES[array.dtype.name], dims=array.shape, data_location=EXTERNAL)
    tensor.external_data.add(key="location", value="expanded")
    return tensor


def _read(tensor: Any, folder: Path) -> NDArray[np.uint8]:
    """The bytes of an initializer in a file of `folder`."""
    source = {entry.key: entry.value for entry in tensor.external_data}
    shape, location = tuple(tensor.dims), source.get("location", "")
    if tensor.data_location != EXTERNAL or not location or Path(location).name != location:
        raise ValueError(f"`{tensor.name}` lies in `{location}`; a file of the folder is needed")
    offset, size = int(source["offset"]), int(source["length"])
    if tensor.data_type != UINT8 or offset < 0 or min(shape, default=0) < 1 or math.prod(shape) != size:
        raise ValueError(f"`{tensor.name}` {list(shape)} has {size} bytes at {offset}")
    with (folder / location).open("rb") as file:
        file.seek(offset)
        data = np.frombuffer(file.read(size), np.uint8)
    if data.size != size:
        raise ValueError(f"`{tensor.name}` has {data.size} of {size} bytes")
    return data.reshape(shape)
