"""The parts of a weight for the native operator, in any format: codebooks, integers of 2, 3 and 4 bits, affine integers.

`name` holds the codes. Codebooks add `name/codebooks` and `name/scale`, integers `name/scale` and `name/zero_point`, affine ones
with minimums `name/scale` and `name/minimum`. All are bytes, laid out as `ovround.tensors.native_layout` says.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Protocol, TypeGuard

import numpy as np

from ovround.artifact.manifest import WeightRecord
from ovround.exporters.exporter import Weight
from ovround.tensors import native_layout as layout
from ovround.tensors.affine_tensor import AffineTensor
from ovround.tensors.codebook_tensor import CodebookTensor
from ovround.tensors.native_layout import AFFINE, CODEBOOK, INTEGERS, Bytes
from ovround.tensors.qtensor import QTensor
from ovround.tensors.scheme import AffineScheme

CODEBOOKS, SCALE, ZERO_POINT, MINIMUM = "/codebooks", "/scale", "/zero_point", "/minimum"
Native = QTensor | AffineTensor | CodebookTensor


class Part(Protocol):
    """What a file says of a part of a weight."""

    @property
    def shape(self) -> tuple[int, ...]: ...


_OTHERS = (".experts.", ".k_b_proj.", ".v_b_proj.")  # those of latent attention are read as matrices, not multiplied by


def fits_operator(weight: Weight, name: str) -> TypeGuard[QTensor]:
    """Whether the operator takes weight `name`: a linear layer of a block, of 2 to 4 bits, without activation order.

    Its groups must be whole runs of inputs.
    """
    if not isinstance(weight, QTensor) or ".layers." not in name or any(part in name for part in _OTHERS):
        return False
    if weight.scale_bits != 16:  # the operator reads halves
        return False
    return weight.bits in (2, 3, 4) and weight.order is None and layout.group_fits(weight.group_size, weight.shape[1])


def parts_of(name: str, weight: Native) -> Iterator[tuple[str, Bytes]]:
    """Each part's name and bytes, in the order of the operator's inputs."""
    if isinstance(weight, CodebookTensor):
        yield name, layout.pack_codes(weight.codes, weight.codebooks.shape[1])
        yield name + CODEBOOKS, layout.halves_as_bytes(weight.codebooks)
        yield name + SCALE, layout.halves_as_bytes(weight.scales)
        return
    yield name, layout.pack_integers(weight.codes, weight.bits)
    if isinstance(weight, AffineTensor):
        yield name + SCALE, layout.pack_group_values(weight.scales)
        if weight.minimums is None:
            yield name + ZERO_POINT, np.array([weight.zero_point], np.uint8)
        else:
            yield name + MINIMUM, layout.pack_group_values(weight.minimums)
        return
    yield name + SCALE, layout.halves_as_bytes(layout.pack_qparams(weight.scales))
    middle = np.array([1 << (weight.bits - 1)], np.uint8)
    yield name + ZERO_POINT, middle if weight.symmetric else layout.pack_qparams(weight.zeros())


def inputs_of(entries: Mapping[str, Part], name: str) -> tuple[str, list[str]]:
    """The operator's attribute `weights` for a weight that was written, and the names of its constants."""
    if name + CODEBOOKS in entries:
        return CODEBOOK, [name, name + CODEBOOKS, name + SCALE]
    bits = entries[name].shape[-1] // 64
    if len(entries[name + SCALE].shape) == 3:
        return AFFINE[bits], [name, name + SCALE, name + (MINIMUM if name + MINIMUM in entries else ZERO_POINT)]
    return INTEGERS[bits], [name, name + SCALE, name + ZERO_POINT]


def read_native(read: Callable[[str], Bytes], record: WeightRecord) -> Native:
    """The weight of `record`, from `read`, which gives the array of a part by name.

    Raises ValueError for parts that contradict the record.
    """
    name, bits, rows, columns = record.name, record.bits, record.shape[0], record.shape[-1]
    if record.affine:
        last = read(name + (ZERO_POINT if AffineScheme.parse(record.affine).symmetric else MINIMUM))
        return layout.unpack_affine((read(name), read(name + SCALE), last), bits, (rows, columns))
    scales = layout.bytes_as_halves(read(name + SCALE))
    if record.codebooks:
        books = layout.bytes_as_halves(read(name + CODEBOOKS))
        return CodebookTensor(layout.unpack_codes(read(name), books.shape[1], len(scales)), books, scales)
    codes = layout.unpack_integers(read(name), bits, rows, columns)
    points = read(name + ZERO_POINT)
    if record.symmetric and (points != 1 << (bits - 1)).any():
        raise ValueError(f"symmetric, yet with zero points {points.reshape(-1)[:4]}")
    zero_points = None if record.symmetric else layout.unpack_qparams(points, rows)
    return QTensor(codes, layout.unpack_qparams(scales, rows), zero_points, bits)
