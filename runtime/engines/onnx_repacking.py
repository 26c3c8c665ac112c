"""Repacking of an ordinary ONNX model's weights for the native operator, when the model is loaded.

MatMulNBits of 2, 4 and 8 bits become QuantizedLinear with the same integers and scales; joined projections stay joined. The
folder does not change. Weights in blocks below 32, with a padded last block, with scales that float16 does not hold, or that
an embedding shares, stay with ONNX Runtime.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from google.protobuf.message import DecodeError
from numpy.typing import NDArray

from ovround.errors import ArtifactError
from ovround.runtime.devices import available_cores
from ovround.runtime.engines.native.packing import LINE, allocate, packer
from ovround.runtime.engines.onnx_messages import EXTERNAL, FLOAT, INT, STRING, UINT8, Model, Tensor
from ovround.tensors import native_layout as layout
from ovround.tensors.native_layout import INTEGERS, OPERATOR, OPSET, RUN

_PRODUCT = "MatMulNBits"
_TYPES: dict[int, Any] = {UINT8: np.uint8, FLOAT: np.float32}
_LENGTHS = (3, 4)  # of the inputs: x, codes, scales and perhaps zero points


@dataclass(slots=True)
class Repacked:
    """A model with native nodes, and their weights by name."""

    model: bytes = b""
    initializers: dict[str, NDArray[np.uint8]] = field(default_factory=dict)
    count: int = 0


def repack(model: bytes, path: Path, library: Path, *, exact: bool) -> Repacked:
    """Replace the products of `model`, read from `path`, whose weights the operator holds.

    Raises ArtifactError for a damaged model, OSError for a library that cannot be loaded.
    """
    pack, repacked = packer(library), Repacked()
    try:
        parsed = Model.FromString(model)
    except DecodeError as error:
        raise ArtifactError(f"`{path}` is damaged: {error}") from error
    graph = parsed.graph
    tensors = {tensor.name: tensor for tensor in graph.initializer}
    uses = Counter(name for node in graph.node for name in node.input)
    fitting = []
    for node in graph.node:
        if node.op_type == _PRODUCT and all(uses[name] == 1 for name in node.input[1:]):
            with _damage(node, path):
                weight = _weight(node, tensors)
                if weight is not None:
                    fitting.append((node, weight))
    buffers = allocate([sum(weight.sizes()) for _, weight in fitting]) if fitting else []

    def fill(job: tuple[tuple[Any, _Weight], NDArray[np.uint8]]) -> list[NDArray[np.uint8]] | None:
        (node, weight), buffer = job
        with _damage(node, path):
            return _parts(weight, path.parent, pack, buffer)

    with ThreadPoolExecutor(available_cores()) as pool:
        filled = list(pool.map(fill, zip(fitting, buffers, strict=True)))
    gone: set[str] = set()
    for (node, weight), parts in zip(fitting, filled, strict=True):
        if parts is not None:
            gone.update(node.input[1:])
            _replace(node, weight, parts, repacked, exact=exact)
    kept = [tensor for tensor in graph.initializer if tensor.name not in gone]
    del graph.initializer[:]
    graph.initializer.extend([*kept, *(_external(name, array) for name, array in repacked.initializers.items())])
    if repacked.count:
        parsed.opset_import.add(domain=OPSET, version=1)
    repacked.model = parsed.SerializeToString()
    return repacked


@contextmanager
def _damage(node: Any, path: Path) -> Iterator[None]:
    """Raise ArtifactError for what a damaged file makes of `node`."""
    try:
        yield
    except (ValueError, IndexError, KeyError, OSError) as error:
        raise ArtifactError(f"`{path}`: `{node.name}` is damaged: {error}") from error


@dataclass(frozen=True, slots=True)
class _Weight:
    """The initializers of a product `[N, K]`: codes, scales, and zero points if there are any."""

    tensors: tuple[Any, ...]
    rows: int
    columns: int
    bits: int
    blocks: int

    def sizes(self) -> list[int]:
        """Bytes of codes, scales and zero points in the operator's layout, each rounded up to cache lines."""
        *sizes, zeros = layout.integer_bytes(self.bits, self.rows, self.columns, self.blocks)
        return [-(-size // LINE) * LINE for size in (*sizes, zeros if len(self.tensors) > 2 else 1)]


def _weight(node: Any, tensors: Mapping[str, Any]) -> _Weight | None:
    """The weight of a product; None for one that the operator does not hold."""
    attributes = {entry.name: entry.i for entry in node.attribute}
    rows, columns, bits, block = (attributes[name] for name in ("N", "K", "bits", "block_size"))
    if (
        bits not in INTEGERS
        or bits == 3
        or block < RUN
        or block % RUN
        or columns % block
        or len(node.input) not in _LENGTHS
    ):
        return None
    parts = tuple(tensors[name] for name in node.input[1:])
    if any(part.data_type != kind for part, kind in zip(parts, (UINT8, FLOAT, UINT8), strict=False)):
        return None
    return _Weight(parts, rows, columns, bits, columns // block)


def _parts(
    weight: _Weight, folder: Path, pack: Callable[..., None], buffer: NDArray[np.uint8]
) -> list[NDArray[np.uint8]] | None:
    """Codes, scales and zero points in the operator's layout, within `buffer`; None for scales that float16 does not hold."""
    codes, scales, *rest = (_read(tensor, folder) for tensor in weight.tensors)
    if codes.size != weight.rows * weight.columns * weight.bits // 8:
        raise ValueError(f"{codes.size} bytes of codes are not those of {[weight.rows, weight.columns]}")
    scales = scales.reshape(weight.rows, weight.blocks)
    halves = scales.astype(np.float16)
    if not np.array_equal(halves.astype(np.float32), scales):
        return None
    zeros = np.array([1 << (weight.bits - 1)], np.uint8)
    if rest:
        zeros = layout.pack_qparams(_unpacked(rest[0].reshape(weight.rows, -1), weight.bits)[:, : weight.blocks])
    sizes = layout.integer_bytes(weight.bits, weight.rows, weight.columns, weight.blocks)
    places = np.cumsum([0, *weight.sizes()[:2]]).tolist()
    packed = buffer[: sizes[0]]
    pack(weight.bits, codes, False, (weight.rows, weight.columns), packed)
    parts = [packed]
    for place, values in zip(places[1:], (layout.halves_as_bytes(layout.pack_qparams(halves)), zeros), strict=True):
        part = buffer[place : place + values.nbytes]
        part[:] = values.reshape(-1)
        parts.append(part)
    return parts


def _unpacked(values: NDArray[np.uint8], bits: int) -> NDArray[np.uint8]:
    """Numbers of `bits` bits from rows of bytes, lowest bits first."""
    shifts = np.arange(0, 8, bits, dtype=np.uint8)
    numbers = (values[:, :, None] >> shifts) & np.uint8((1 << bits) - 1)
    return np.ascontiguousarray(numbers.reshape(len(values), -1))


def _replace(node: Any, weight: _Weight, parts: list[NDArray[np.uint8]], repacked: Repacked, *, exact: bool) -> None:
    names = [f"{node.name}/native/{part}" for part in ("codes", "scales", "zero_points")]
    repacked.initializers |= dict(zip(names, parts, strict=True))
    repacked.count += 1
    node.op_type, node.domain = OPERATOR, OPSET
    node.input[1:] = names
    del node.attribute[:]
    node.attribute.add(name="weights", s=INTEGERS[weight.bits].encode(), type=STRING)
    for name, value in (("outputs", weight.rows), ("inputs", weight.columns), ("exact", int(exact))):
        node.attribute.add(name=name, i=value, type=INT)


def _external(name: str, array: NDArray[np.uint8]) -> Any:
    """An initializer whose bytes are given to the session."""
    tensor = Tensor(name=name, data_type=UINT8, dims=array.shape, data_location=EXTERNAL)
    tensor.external_data.add(key="location", value="repacked")
    return tensor


def _read(tensor: Any, folder: Path) -> NDArray[Any]:
    """The numbers of an initializer in a file of `folder`."""
    source = {entry.key: entry.value for entry in tensor.external_data}
    shape, location = tuple(tensor.dims), source.get("location", "")
    if tensor.data_location != EXTERNAL or not location or Path(location).name != location:
        raise ValueError(f"`{tensor.name}` lies in `{location}`; a file of the folder is needed")
    kind = np.dtype(_TYPES[tensor.data_type])
    offset, size = int(source["offset"]), int(source["length"])
    if offset < 0 or min(shape, default=0) < 1 or math.prod(shape) * kind.itemsize != size:
        raise ValueError(f"`{tensor.name}` {list(shape)} has {size} bytes at {offset}")
    data: NDArray[Any] = np.fromfile(folder / location, kind, math.prod(shape), offset=offset)
    if data.nbytes != size:
        raise ValueError(f"`{tensor.name}` has {data.nbytes} of {size} bytes")
    return data
