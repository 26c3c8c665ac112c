"""A GGUF file as a source: its integers, or grids near them (`GgufCheckpoint`), or the numbers they stand for (`GgufFloats`).

Both speak the decoder's names once `located` has been told its tensors; nothing but the header has been read before.
Weights are read when they are asked for, a part at a time, so that no more than one of them is in memory.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ovround.artifact.manifest import SourceType, sha256_file
from ovround.checkpoint.files.element_types import ARRAY_TYPES, FLOAT_TYPES
from ovround.checkpoint.files.element_types import TensorInfo as StoredInfo
from ovround.checkpoint.gguf.affine_blocks import AFFINE_KINDS, affine_tensor
from ovround.checkpoint.gguf.architectures import Architecture
from ovround.checkpoint.gguf.grids import MINIMUM, SYMMETRIC, on_grid, whole_steps
from ovround.checkpoint.gguf.header import TensorInfo
from ovround.checkpoint.gguf.places import Place, Shape, places
from ovround.checkpoint.gguf.rope import FACTORS
from ovround.checkpoint.gguf.rows import check_finite, chunks, finite, ordered, read_bytes
from ovround.checkpoint.gguf.types import Bytes, Floats, dequantize, row_bytes
from ovround.checkpoint.hf import Checkpoint
from ovround.errors import TensorError
from ovround.tensors.affine_tensor import RUN, AffineTensor
from ovround.tensors.float_tensor import FloatTensor
from ovround.tensors.qtensor import BITS, QTensor
from ovround.tensors.scheme import AffineScheme, QuantScheme

_TABLES = ("model.embed_tokens", "lm_head")
_FLOAT_MODULES = ("mlp.gate", "mlp.shared_expert_gate", "model.embed_positions")  # that no engine has in integers
_OTHER_MODEL = "the file belongs to another model, or this variant is not supported"


@dataclass(frozen=True, slots=True)
class Deviation:
    """What a weight lost on its way to an engine's grid: sums of squares of the error and of the weight."""

    kind: str
    grid: str
    error: float = 0.0
    size: float = 0.0


@dataclass(frozen=True, slots=True)
class GgufCheckpoint:
    """An opened file, or several that were split from one. `config` and `folder` are those of an ordinary checkpoint.

    `float_tables`: embedding and head are de-quantised, for formats that hold no others. `native`: linear layers are for the
    native operator, which takes any scale and minimum of a group. `as_blocks`: every weight is for a file with the same types.
    """

    path: Path
    folder: Path
    architecture: Architecture
    config: dict[str, Any]
    tensors: Mapping[str, TensorInfo]
    places: Mapping[str, Place] = field(default_factory=dict)
    shapes: Mapping[str, Shape] = field(default_factory=dict)
    float_tables: bool = False
    native: bool = False
    as_blocks: bool = False
    deviations: dict[str, Deviation] = field(default_factory=dict, compare=False)
    method: str = "gguf"
    _schemes: dict[str, QuantScheme] = field(default_factory=dict, compare=False)
    _zero_points: dict[str, int | None] = field(default_factory=dict, compare=False)

    @property
    def stored(self) -> GgufFloats:
        return GgufFloats(self.folder, self.config, (), self)

    @property
    def files(self) -> tuple[Path, ...]:
        """The files that hold the tensors, in order."""
        return tuple(dict.fromkeys(info.path for info in self.tensors.values()))

    @property
    def is_quantised(self) -> bool:
        """Whether any tensor is; files of float16 or bfloat16 are not."""
        return any(info.kind not in FLOAT_TYPES for info in self.tensors.values())

    def located(self, shapes: Mapping[str, Shape]) -> GgufCheckpoint:
        """The same under the names of a decoder with these tensors."""
        found = places(self.architecture, shapes, self.config, self.tensors)
        return replace(self, places=found, shapes=dict(shapes))

    def packed(self, module: str) -> bool:
        """Whether `module`'s weight is quantised here and stays so."""
        if module == "lm_head" and not self.places:
            return "output.weight" in self.tensors and self.tensors["output.weight"].kind not in FLOAT_TYPES
        place = self.places.get(f"{module}.weight")
        if place is None or module.endswith(_FLOAT_MODULES) or (self.float_tables and module in _TABLES):
            return False
        kinds = {self.tensors[name].kind for name in place.tensors}
        return len(kinds) == 1 and kinds <= {*SYMMETRIC, *MINIMUM}

    def scheme(self, module: str) -> QuantScheme | AffineScheme | None:
        """The scheme that `module`'s weight is read on; None where it is in float."""
        if not self.packed(module):
            return None
        place = self.places[f"{module}.weight"]
        affine = self._affine_scheme(module, place)
        if affine is not None:
            return affine
        schemes = [self._scheme(name) for name in place.tensors]
        return max(schemes, key=lambda scheme: scheme.bits)

    def _affine_scheme(self, module: str, place: Place) -> AffineScheme | None:
        """The scheme of a weight that the native operator computes with and no grid of ours holds as it is.

        Tables that 8 bits hold without loss stay with the engine, whose table serves embedding and tied head.
        """
        kind, columns = self._kind(place), self.shapes[f"{module}.weight"][1]
        if self.as_blocks and kind in AFFINE_KINDS:
            return _scheme_of(kind, columns)
        if not self.native or kind not in AFFINE_KINDS or ".experts." in module or columns % RUN:
            return None
        kept = module in _TABLES and kind in SYMMETRIC and not SYMMETRIC[kind].products
        if kept or (kind in MINIMUM and all(self._zero_point(name) is not None for name in place.tensors)):
            return None
        return _scheme_of(kind, columns)

    def _scheme(self, tensor: str) -> QuantScheme:
        """Of a whole tensor, all its experts and projections alike; its own grid where every minimum is whole steps."""
        if tensor not in self._schemes:
            info = self.tensors[tensor]
            scheme = (SYMMETRIC.get(info.kind) or MINIMUM[info.kind]).scheme
            top = self._zero_point(tensor) if info.kind in MINIMUM else None
            if top is not None:
                bits = MINIMUM[info.kind].bits
                scheme = replace(scheme, bits=bits if bits in BITS and top < 1 << bits else 8)
            self._schemes[tensor] = scheme
        return self._schemes[tensor]

    def _zero_point(self, tensor: str) -> int | None:
        """The largest zero point of a tensor of a type with minima; None where one is no whole number of steps."""
        if tensor not in self._zero_points:
            info, top = self.tensors[tensor], 0
            for rows in chunks(info, slice(0, math.prod(info.shape[:-1]))):
                found = whole_steps(rows, info.kind)
                if found is None:
                    self._zero_points[tensor] = None
                    break
                top = max(top, found)
            else:
                self._zero_points[tensor] = top
        return self._zero_points[tensor]

    def check(self, expected: Mapping[str, Shape], ignored: Iterable[str] = ()) -> tuple[str, ...]:
        """Compare names, shapes and types with what the architecture expects; raises TensorError for the first difference."""
        experts: dict[str, int] = {}
        for name, shape in expected.items():
            place = self.places[name]
            for tensor in place.tensors:
                if tensor not in self.tensors:
                    raise TensorError(
                        f"`{self.path}` has no tensor `{tensor}`, which its configuration calls for", hint=_OTHER_MODEL
                    )
                rows = shape[0] if place.rows is None else place.rows.size
                wanted = (rows // len(place.tensors), *shape[1:])
                stored = self.tensors[tensor].shape
                if place.index is not None:
                    experts[tensor] = max(experts.get(tensor, 0), place.index + 1)
                    wanted = (experts[tensor], *wanted) if stored[:1] == (experts[tensor],) else (stored[0], *wanted)
                if _without_ones(stored) != _without_ones(wanted):
                    raise TensorError(
                        f"tensor `{tensor}` has shape {list(stored)}; its configuration calls for {list(wanted)}",
                        hint=_OTHER_MODEL,
                    )
        for tensor, count in experts.items():
            if self.tensors[tensor].shape[0] != count:
                raise TensorError(
                    f"tensor `{tensor}` has {self.tensors[tensor].shape[0]} experts; its configuration calls for {count}",
                    hint=_OTHER_MODEL,
                )
        used = {tensor for name in expected for tensor in self.places[name].tensors}
        extra = [name for name in self.tensors if name not in used and name not in FACTORS]
        if extra:
            raise TensorError(
                f"`{self.path}` has {len(extra)} tensor(s) that its configuration does not call for, such as `{extra[0]}`",
                hint=_OTHER_MODEL,
            )
        return ()

    def read(self, name: str, shape: Shape) -> FloatTensor | QTensor | AffineTensor:
        """A weight or float tensor of this shape; raises TensorError for values that are not finite."""
        module = name.removesuffix(".weight")
        scheme = self.scheme(module) if module != name else None
        place = self.places[name]
        if scheme is None:
            tensor = self.read_floats(name)
            if len(shape) > 1:
                self.deviations[name] = Deviation(self._kind(place), tensor.dtype)
            return tensor
        if isinstance(scheme, QuantScheme):
            return self._read_grid(name, shape, scheme)
        kind = self._kind(place)
        self.deviations[name] = Deviation(kind, f"as it is, {scheme.bits} bits in groups of {scheme.group_size}")
        try:
            return affine_tensor(np.concatenate(list(self._parts(place, shape))), kind)
        except ValueError as problem:
            raise TensorError(
                f"`{place.tensor}` is {kind}: {problem}", hint="the file is damaged: get it again"
            ) from problem

    def report(self) -> tuple[SourceType, ...]:
        """What became of the weights that were read, by type and grid, in the order of their types' names."""
        found: dict[tuple[str, str], list[Deviation]] = {}
        for deviation in self.deviations.values():
            found.setdefault((deviation.kind, deviation.grid), []).append(deviation)
        return tuple(
            SourceType(
                kind, grid, len(several), _relative(sum(one.error for one in several), sum(one.size for one in several))
            )
            for (kind, grid), several in sorted(found.items())
        )

    def blocks(self, name: str) -> tuple[str, Bytes]:
        """The type of a weight and its bytes `[N, bytes a row]`, in the decoder's order of rows."""
        place = self.places[name]
        return self._kind(place), np.concatenate(list(self._parts(place, self.shapes[name])))

    def relative_error(self, name: str) -> float:
        """|W - Wq| / |W| of a weight that was read, 0 where all is kept."""
        found = self.deviations.get(name)
        return 0.0 if found is None else _relative(found.error, found.size)

    def read_floats(self, name: str) -> FloatTensor:
        """A tensor as the numbers that it stands for: F16 and BF16 as they lie, others in float32."""
        place, shape = self.places[name], self.shapes[name]
        if len(shape) < 2:
            return self._read_vector(name, place, shape)
        kind, rows = self._kind(place), math.prod(shape[:-1])
        if kind in FLOAT_TYPES and kind != "F32":
            raw = np.concatenate(list(self._parts(place, shape)))
            return FloatTensor(np.ascontiguousarray(raw).view(ARRAY_TYPES[kind]).reshape(shape), FLOAT_TYPES[kind])
        values, at = np.empty((rows, shape[-1]), np.float32), 0
        for part in self._values(name, place, shape):
            values[at : at + len(part)] = part
            at += len(part)
        return FloatTensor(values.reshape(shape), "float32")

    def _read_vector(self, name: str, place: Place, shape: Shape) -> FloatTensor:
        parts = []
        for tensor in place.tensors:
            info = self.tensors[tensor]
            stored = dequantize(read_bytes(info), info.kind)
            if place.index is not None:
                stored = stored.reshape(info.shape)[place.index]
            parts.append(finite(tensor, stored.reshape(-1)))
        values = parts[0] if len(parts) == 1 else np.stack(parts, axis=1).reshape(-1)
        return FloatTensor(np.ascontiguousarray(ordered(_cut(values, place), place.heads)), "float32")

    def _read_grid(self, name: str, shape: Shape, scheme: QuantScheme) -> QTensor:
        place = self.places[name]
        kind = self._kind(place)
        codes = np.empty(shape, np.uint8)
        groups = (shape[0], shape[1] // scheme.group_size)
        scales = np.empty(groups, np.float16)
        zero_points = None if scheme.symmetric else np.empty(groups, np.uint8)
        exact = kind in SYMMETRIC and not SYMMETRIC[kind].products
        at, error, size = 0, 0.0, 0.0
        for raw in self._parts(place, shape):
            values = finite(place.tensor, dequantize(raw, kind))
            try:
                part = on_grid(raw, kind, values, scheme)
            except ValueError as problem:
                raise TensorError(
                    f"`{place.tensor}` is {kind}: {problem}", hint="--recipe rtn rounds it anew"
                ) from problem
            rows = slice(at, at + len(raw))
            codes[rows], scales[rows] = part.codes, part.scales
            if zero_points is not None and part.zero_points is not None:
                zero_points[rows] = part.zero_points
            if not exact:
                error += float(np.square(part.dequantize() - values).sum(dtype=np.float64))
                size += float(np.square(values).sum(dtype=np.float64))
            at += len(raw)
        words = f"{scheme.bits} bits in groups of {scheme.group_size}{'' if scheme.symmetric else ', asymmetric'}"
        self.deviations[name] = Deviation(kind, words, error, size)
        return QTensor(codes, scales, zero_points, scheme.bits)

    def _kind(self, place: Place) -> str:
        return self.tensors[place.tensor].kind

    def _values(self, name: str, place: Place, shape: Shape) -> Iterator[Floats]:
        """Rows as float32, some at a time; two tensors that alternate may be of different types."""
        if place.other is None:
            for raw in self._parts(place, shape):
                yield finite(place.tensor, dequantize(raw, self._kind(place)))
            return
        halves = [
            np.concatenate(list(self._values(name, Place(tensor, index=place.index), (shape[0] // 2, *shape[1:]))))
            for tensor in place.tensors
        ]
        yield np.stack(halves, axis=1).reshape(shape)

    def _parts(self, place: Place, shape: Shape) -> Iterator[Bytes]:
        """The bytes of the rows of a tensor `[N, K]` in the decoder's order, some rows at a time."""
        rows = math.prod(shape[:-1])
        if place.other is not None:
            halves = [
                np.concatenate(list(self._parts(Place(tensor, index=place.index), (rows // 2, shape[-1]))))
                for tensor in place.tensors
            ]
            yield np.stack(halves, axis=1).reshape(rows, -1)
            return
        info = self.tensors[place.tensor]
        first = (place.index or 0) * (rows if place.rows is None else place.rows.size)
        if place.rows is not None:
            first += place.rows.start
        parts = chunks(info, slice(first, first + rows))
        if place.heads:
            yield ordered(np.concatenate(list(parts)), place.heads)
        else:
            yield from parts

    def scan(self) -> dict[str, str]:
        """sha256 of each file, every value having been looked at; raises TensorError for NaN or infinity."""
        for name, info in self.tensors.items():
            for raw in chunks(info, slice(0, math.prod(info.shape[:-1]))):
                check_finite(name, raw, info.kind)
        return {path.name: sha256_file(path) for path in self.files}

    def size_bytes(self) -> int:
        """Bytes of all tensors."""
        return sum(info.size_bytes for info in self.tensors.values())


@dataclass(frozen=True, slots=True)
class GgufFloats(Checkpoint):
    """See `Checkpoint`: the numbers that the weights of `inner` stand for, as if the file had never been quantised."""

    inner: GgufCheckpoint

    def located(self, shapes: Mapping[str, Shape]) -> GgufFloats:
        """The same under the names of a decoder with these tensors."""
        return replace(self, inner=self.inner.located(shapes))

    def tensors(self) -> dict[str, StoredInfo]:
        """By the decoder's names; of a file that is not located, by its own, with GGUF's types."""
        if not self.inner.places:
            return {
                name: StoredInfo(info.kind, info.shape, info.offset, info.size_bytes)
                for name, info in self.inner.tensors.items()
            }
        infos = {}
        for name, place in self.inner.places.items():
            if all(tensor in self.inner.tensors for tensor in place.tensors):
                info, shape = self.inner.tensors[place.tensor], self.inner.shapes[name]
                kind = info.kind if info.kind in FLOAT_TYPES and len(shape) > 1 else "F32"
                size = math.prod(shape) * np.dtype(ARRAY_TYPES[kind]).itemsize
                infos[name] = StoredInfo(kind, shape, info.offset, size)
        return infos

    def read(self, name: str, index: int | None = None) -> FloatTensor:
        if index is not None:
            raise ValueError(f"part {index} of `{name}`, which is a part itself")
        if name not in self.inner.places:
            raise TensorError(f"`{self.inner.path}` has no tensor `{name}`")
        return self.inner.read_floats(name)

    def size_bytes(self) -> int:
        return self.inner.size_bytes()

    def check(self, expected: dict[str, Shape], ignored: Iterable[str] = ()) -> tuple[str, ...]:
        return self.inner.check(expected, ignored)

    def scan(self) -> dict[str, str]:
        return self.inner.scan()


def _scheme_of(kind: str, columns: int) -> AffineScheme:
    return affine_tensor(np.zeros((1, row_bytes(kind, columns)), np.uint8), kind).scheme


def _relative(error: float, size: float) -> float:
    return math.sqrt(error / size) if size else 0.0


def _cut(values: NDArray[Any], place: Place) -> NDArray[Any]:
    return values if place.rows is None else values[place.rows.start : place.rows.stop]


def _without_ones(shape: Shape) -> Shape:
    """A shape without axes of 1 before the others: ggml has no others."""
    return _without_ones(shape[1:]) if len(shape) > 1 and shape[0] == 1 else shape
