"""Tensors as a family's checkpoints hold them, from the decoder's: rows joined again, norms stored less 1, other names."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np

from ovround.errors import UsageError
from ovround.exporters.checkpoints.layout import Array, Plan, Shapes
from ovround.exporters.exporter import Weight
from ovround.models.decoder import EMBEDDING, HEAD, Decoder
from ovround.tensors.float_tensor import FloatTensor
from ovround.tensors.qtensor import QTensor
from ovround.tensors.scheme import Codebooks, WeightScheme
from ovround.tensors.tensor_source import TensorSource


@dataclass(frozen=True, slots=True)
class Stored:
    """A tensor as a checkpoint holds it, and the decoder's tensors that it is made of."""

    name: str
    shape: tuple[int, ...]
    parts: tuple[str, ...]


class StoredLayout:
    """Where each tensor of a decoder goes in a checkpoint of its family."""

    def __init__(self, decoder: Decoder) -> None:
        self.sources = decoder.sources()
        self._stacks = decoder.stacked() if decoder.layout.experts_joined else frozenset()
        parts: dict[str, list[str]] = {}
        for name, source in self.sources.items():
            parts.setdefault(source.name, []).append(name)
        self._stored = {
            name: Stored(name, self.sources[members[0]].shape, tuple(members)) for name, members in parts.items()
        }

    def of(self, name: str) -> Stored:
        """The stored tensor that the decoder's tensor `name` is, or is a part of."""
        return self._stored[self.sources[name].name]

    def embedding(self) -> str:
        """The stored name of the embedding."""
        return self.sources[f"{EMBEDDING}.weight"].name

    def plan(self, plan: Plan) -> Plan:
        """The scheme of each stored module; that of joined ones is the first part's."""
        return {
            stored.name.removesuffix(".weight"): plan[stored.parts[0].removesuffix(".weight")]
            for stored in self._stored.values()
            if stored.parts[0].removesuffix(".weight") in plan
        }

    def shapes(self) -> Shapes:
        """The shape of each stored tensor."""
        return {stored.name: stored.shape for stored in self._stored.values()}

    def check(self, format_name: str, plan: Plan) -> None:
        """Raise UsageError for what a checkpoint of the family cannot be made of."""
        for stored in self._stored.values():
            self._check_places(format_name, stored)
            schemes = [_scheme(plan, part) for part in stored.parts]
            if any(scheme != schemes[0] for scheme in schemes):
                raise UsageError(
                    f"format {format_name}: checkpoints of this family hold {_listed(stored.parts)} in one tensor "
                    f"(`{stored.name}`), and they have several schemes",
                    hint="the same bits and groups for all of them, or --format openvino or onnx",
                )
            if len(stored.parts) > 1 and isinstance(schemes[0], Codebooks):
                raise UsageError(
                    f"format {format_name}: checkpoints of this family hold {_listed(stored.parts)} in one tensor "
                    f"(`{stored.name}`), and each has codebooks of its own",
                    hint="--format openvino or onnx",
                )
        for module, flag in ((EMBEDDING, "embedding-bits"), (HEAD, "lm-head-bits")):
            name = f"{module}.weight"
            if name in self.sources and self.sources[name].name != name and _scheme(plan, name) is not None:
                raise UsageError(
                    f"format {format_name}: this family calls `{name}` `{self.sources[name].name}`, which loaders of the "
                    "format expect in float",
                    hint=f"--{flag} 16",
                )

    def _check_places(self, format_name: str, stored: Stored) -> None:
        """Raise UsageError for a tensor whose parts are no rows of it: of all experts or layers, or turned."""
        for part in stored.parts:
            source = self.sources[part]
            stacked = source.index is not None or part.removesuffix(".weight") in self._stacks
            if source.transposed or stacked or source.columns is not None:
                how = "turned" if source.transposed else "with those of other experts or layers"
                raise UsageError(
                    f"format {format_name}: checkpoints of this family hold `{part}` {how} (`{stored.name}`), for which "
                    "loaders of the format have no layer",
                    hint="--format openvino or onnx",
                )


class Joiner:
    """Gathers the parts of joined tensors; `add` gives a stored tensor as soon as it is whole."""

    def __init__(self, layout: StoredLayout) -> None:
        self._layout = layout
        self._waiting: dict[str, dict[str, Weight]] = {}

    def add(self, name: str, weight: Weight) -> tuple[str, Weight] | None:
        """The name and value of the stored tensor that is whole with the decoder's tensor `name`; None until then."""
        stored, source = self._layout.of(name), self._layout.sources[name]
        if source.add and isinstance(weight, FloatTensor):
            weight = FloatTensor(weight.float32() - np.float32(source.add), "float32")
        if source.rows is None:  # one that several blocks read is written once
            return (stored.name, weight) if name == stored.parts[0] else None
        parts = self._waiting.setdefault(stored.name, {})
        parts[name] = weight
        if len(parts) < len(stored.parts):
            return None
        del self._waiting[stored.name]
        return stored.name, _joined(stored, parts, self._layout.sources)


def _joined(stored: Stored, parts: Mapping[str, Weight], sources: Mapping[str, TensorSource]) -> Weight:
    """The parts' rows in the places that they have in the stored tensor; rows that nobody reads are 0 (OPT's first two positions)."""
    places = [_rows(sources[name]) for name in stored.parts]
    weights = [parts[name] for name in stored.parts]

    def together(arrays: list[Array]) -> Array:
        whole = np.zeros((stored.shape[0], *arrays[0].shape[1:]), arrays[0].dtype)
        for rows, array in zip(places, arrays, strict=True):
            whole[rows] = array
        return whole

    first, floats = weights[0], [weight for weight in weights if isinstance(weight, FloatTensor)]
    if isinstance(first, FloatTensor) and len(floats) == len(weights):
        if any(weight.dtype != first.dtype for weight in floats):
            raise TypeError(f"`{stored.name}` is joined of several types")
        return FloatTensor(together([weight.data for weight in floats]), first.dtype)
    integers = [weight for weight in weights if isinstance(weight, QTensor)]
    if not isinstance(first, QTensor) or len(integers) < len(weights):
        raise TypeError(f"`{stored.name}` is joined of {', '.join(type(weight).__name__ for weight in weights)}")
    if any(not _same_order(first, weight) for weight in integers):
        raise UsageError(
            f"`{stored.name}` holds parts with other orders of activation", hint="--format openvino or onnx"
        )
    scale_type = np.result_type(*(weight.scales.dtype for weight in integers))
    return replace(
        first,
        codes=together([weight.codes for weight in integers]),
        scales=together([weight.scales.astype(scale_type) for weight in integers]),
        zero_points=None if first.zero_points is None else together([weight.zeros() for weight in integers]),
    )


def _same_order(one: QTensor, other: QTensor) -> bool:
    if one.order is None or other.order is None:
        return one.order is other.order
    return np.array_equal(one.order, other.order)


def _rows(source: TensorSource) -> Array:
    """The numbers of the stored rows that a source takes."""
    every = np.arange(source.shape[0])
    if source.rows is None:
        return every
    return every.reshape(-1, source.rows.size)[:, source.rows.start : source.rows.stop].ravel()


def _scheme(plan: Plan, name: str) -> WeightScheme | None:
    """The scheme of a tensor; None for one in float, such as a bias."""
    return plan.get(name.removesuffix(".weight")) if name.endswith(".weight") else None


def _listed(names: tuple[str, ...]) -> str:
    return ", ".join(f"`{name}`" for name in names[:3])
