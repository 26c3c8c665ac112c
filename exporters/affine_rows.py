"""An affine embedding in a form that a graph's own nodes look up: no operator, hence no library, is needed for it.

    name/rows                 u8 [V, K]    a byte a code, since a Gather reads whole bytes
    name/rows/scale           f16 [V, B]
    name/rows/scale_factor    i8 [V, G]    where several groups share a float16 number
    name/rows/minimum         and its factor likewise, where there are minimums

The graph gathers the rows of each and computes `(code - zero_point) * scale - minimum` in float32, as `AffineTensor` does.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from ovround.artifact.manifest import WeightRecord
from ovround.exporters.native_parts import read_native
from ovround.tensors.affine_tensor import AffineTensor
from ovround.tensors.group_values import GroupValues
from ovround.tensors.scheme import AffineScheme

ROWS, SCALE, MINIMUM, FACTOR = "/rows", "/rows/scale", "/rows/minimum", "_factor"


def rows_of(name: str, weight: AffineTensor) -> Iterator[tuple[str, NDArray[Any]]]:
    """Each part's name and array."""
    yield name + ROWS, weight.codes
    for part, values in ((SCALE, weight.scales), (MINIMUM, weight.minimums)):
        if values is None:
            continue
        yield name + part, values.blocks
        if values.factors is not None:
            yield name + part + FACTOR, values.factors


class _Part(Protocol):
    """A stored part; the `Entry` of either engine is one."""

    @property
    def shape(self) -> tuple[int, ...]: ...


def read_rows(
    read: Callable[[str], NDArray[np.uint8]], entries: Mapping[str, _Part], record: WeightRecord
) -> AffineTensor:
    """The weight `[V, K]` of `record`; `read` gives the bytes of a part of `entries` by name.

    Where the head is tied to it, the operator's parts are stored too; raises ValueError unless they hold the same.
    """
    scheme, rows = AffineScheme.parse(record.affine), record.shape[0]

    def values(part: str) -> GroupValues:
        factors = None
        if part + FACTOR in entries:
            factors = read(part + FACTOR).view(np.int8).reshape(rows, -1)
        return GroupValues(read(part).view(np.float16).reshape(rows, -1), factors)

    minimums = values(record.name + MINIMUM) if scheme.minimum else None
    codes = read(record.name + ROWS).reshape(record.shape)
    weight = AffineTensor(codes, values(record.name + SCALE), minimums, scheme.bits, scheme.zero_point)
    if record.name in entries:
        head = read_native(lambda part: read(part).reshape(entries[part].shape), record)
        if head.digest() != weight.digest():
            raise ValueError("embedding and tied head differ")
    return weight
