"""A checkpoint under the decoder's names: renamed, joined or transposed tensors are converted as they are read."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from ovround.checkpoint.files.element_types import ARRAY_TYPES, TensorInfo
from ovround.checkpoint.formats.packed import Packed
from ovround.checkpoint.gguf import GgufCheckpoint, GgufFloats
from ovround.checkpoint.hf import Checkpoint
from ovround.checkpoint.quantised import PackedCheckpoint
from ovround.checkpoint.text_part import relocated
from ovround.errors import CheckpointError, TensorError
from ovround.tensors.affine_tensor import AffineTensor
from ovround.tensors.float_tensor import FloatTensor
from ovround.tensors.qtensor import QTensor
from ovround.tensors.scheme import AffineScheme, QuantScheme
from ovround.tensors.tensor_source import TensorSource


@dataclass(frozen=True, slots=True)
class MappedCheckpoint(Checkpoint):
    """See `Checkpoint`; `sources` says where each tensor of the decoder lies in `inner`, `shapes` which shape it has then."""

    inner: Checkpoint
    sources: Mapping[str, TensorSource]
    shapes: Mapping[str, tuple[int, ...]]

    def tensors(self) -> dict[str, TensorInfo]:
        infos = self.inner.tensors()
        return {
            name: self._info(name, infos[source.name]) for name, source in self.sources.items() if source.name in infos
        }

    def read(self, name: str, index: int | None = None) -> FloatTensor:
        if index is not None:
            raise ValueError(f"part {index} of `{name}`, which is a part itself")
        if name not in self.sources:
            raise TensorError(f"`{self.folder}` has no tensor `{name}`")
        source = self.sources[name]
        if source.columns is not None:
            return source.take(self.inner.read_columns(source.name, source.columns))
        return source.take(self.inner.read(source.name, source.index))

    def check(self, expected: dict[str, tuple[int, ...]], ignored: Iterable[str] = ()) -> tuple[str, ...]:
        sources = [self.sources[name] for name in expected]
        return self.inner.check({source.name: source.shape for source in sources}, ignored)

    def scan(self) -> dict[str, str]:
        return self.inner.scan()

    def _info(self, name: str, info: TensorInfo) -> TensorInfo:
        """The tensor as it is read; the offset is that of the tensor that it is taken from."""
        shape = self.shapes[name]
        dtype = "F32" if self.sources[name].add else info.dtype
        item_bytes = np.dtype(ARRAY_TYPES.get(dtype, np.uint8)).itemsize
        return TensorInfo(dtype, shape, info.offset, math.prod(shape) * item_bytes)


@dataclass(frozen=True, slots=True)
class MappedPackedCheckpoint:
    """The same for a source that is quantised already: see `PackedCheckpoint`."""

    inner: PackedCheckpoint
    sources: Mapping[str, TensorSource]

    @property
    def method(self) -> str:
        return self.inner.method

    @property
    def stored(self) -> Checkpoint:
        return self.inner.stored

    @property
    def folder(self) -> Path:
        return self.inner.folder

    @property
    def config(self) -> dict[str, Any]:
        return self.inner.config

    def packed(self, module: str) -> bool:
        return self.inner.packed(self._module(module))

    def scheme(self, module: str) -> QuantScheme | AffineScheme | None:
        return self.inner.scheme(self._module(module))

    def check(self, expected: Mapping[str, tuple[int, ...]], ignored: Iterable[str] = ()) -> tuple[str, ...]:
        sources = [self.sources[name] for name in expected]
        for source in sources:
            split = source.transposed or source.columns is not None
            if split and self.inner.packed(source.name.removesuffix(".weight")):
                how = "transposed" if source.transposed else "joined with those of other layers"
                raise CheckpointError(
                    f"`{source.name}` is quantised, and lies {how} in checkpoints of its family",
                    hint="start from the original, unquantised checkpoint",
                )
        return self.inner.check({source.name: source.shape for source in sources}, ignored)

    def read(self, name: str, shape: tuple[int, ...]) -> FloatTensor | Packed:
        source = self.sources[name]
        if source.index is not None:  # experts in one tensor, which no format packs
            return source.take(self.inner.stored.read(source.name, source.index))
        if source.columns is not None:  # of a table of all layers, which `check` has found in float
            return source.take(self.inner.stored.read_columns(source.name, source.columns))
        weight = self.inner.read(source.name, source.shape)
        if isinstance(weight, FloatTensor):
            return source.take(weight)
        if isinstance(weight, QTensor | AffineTensor):
            return source.take_rows(weight)
        try:
            return source.take_codes(weight)
        except ValueError as error:
            raise TensorError(f"`{source.name}` cannot be taken apart: {error}") from error

    def relative_error(self, name: str) -> float:
        return self.inner.relative_error(self.sources[name].name)

    def scan(self) -> dict[str, str]:
        return self.inner.scan()

    def _module(self, module: str) -> str:
        source = self.sources.get(f"{module}.weight")
        return module if source is None else source.name.removesuffix(".weight")


def mapped(
    checkpoint: Checkpoint, sources: Mapping[str, TensorSource], shapes: Mapping[str, tuple[int, ...]]
) -> Checkpoint:
    """`checkpoint` under the names of `sources`, with these `shapes`; itself where every tensor is used as it lies.

    A GGUF file has places of its own for them.
    """
    if isinstance(checkpoint, GgufFloats):
        return checkpoint.located(shapes)
    sources = located(sources, checkpoint)
    if all(source.is_plain and source.name == name for name, source in sources.items()):
        return checkpoint
    return MappedCheckpoint(
        checkpoint.folder, checkpoint.config, checkpoint.files, checkpoint, sources, shapes, notes=checkpoint.notes
    )


def mapped_packed(
    source: PackedCheckpoint, sources: Mapping[str, TensorSource], shapes: Mapping[str, tuple[int, ...]]
) -> PackedCheckpoint:
    """The same of a source that is quantised already."""
    if isinstance(source, GgufCheckpoint):
        return source.located(shapes)
    sources = located(sources, source.stored)
    if all(source_.is_plain and source_.name == name for name, source_ in sources.items()):
        return source
    return MappedPackedCheckpoint(source, sources)


def located(sources: Mapping[str, TensorSource], checkpoint: Checkpoint) -> Mapping[str, TensorSource]:
    """`sources` as this checkpoint has them: `TensorSource.otherwise` replaces a source that is missing.

    A checkpoint that was saved without its head has names without their first part (`h.0.ln_1` for `transformer.h.0.ln_1`);
    one of a multimodal model has its text model under another name (see `text_part`).
    """
    infos = checkpoint.tensors()
    first = next(iter(sources.values())).name
    prefix, _, rest = first.partition(".")
    if first not in infos:
        place = relocated(first, infos)
        if rest in infos:
            place = functools.partial(_without, f"{prefix}.")
        if place is not None:
            sources = {name: _moved(source, place) for name, source in sources.items()}
    return {name: _present(source, infos) for name, source in sources.items()}


def _without(prefix: str, name: str) -> str:
    return name.removeprefix(prefix)


def _moved(source: TensorSource, place: Callable[[str], str]) -> TensorSource:
    other = None if source.otherwise is None else _moved(source.otherwise, place)
    return replace(source, name=place(source.name), otherwise=other)


def _present(source: TensorSource, infos: Mapping[str, TensorInfo]) -> TensorSource:
    """The first of `source` and its alternatives that is there; experts in one tensor may lie transposed (Qwen3-VL)."""
    other: TensorSource | None = source
    while other is not None and other.name not in infos:
        other = other.otherwise
    source = other or source
    if source.index is None or source.name not in infos or len(source.shape) != 3:
        return source
    stacked, columns, rows = source.shape
    if infos[source.name].shape == source.shape or infos[source.name].shape != (stacked, rows, columns):
        return source
    return replace(source, shape=(stacked, rows, columns), transposed=not source.transposed)
