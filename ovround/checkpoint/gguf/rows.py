"""Rows of a GGUF file's tensors as bytes, some at a time, and the check that their numbers are finite."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ovround.checkpoint.gguf.bits import float16_at
from ovround.checkpoint.gguf.header import TensorInfo
from ovround.checkpoint.gguf.types import Bytes, Floats, dequantize, row_bytes
from ovround.errors import CheckpointError, TensorError

_CHUNK_WEIGHTS = 1 << 20
# Where the float16 numbers of a block lie; of other types every value is computed.
_HALVES = {
    "Q4_0": (0,), "Q5_0": (0,), "Q8_0": (0,), "Q4_1": (0, 2), "Q5_1": (0, 2), "Q2_K": (80, 82), "Q3_K": (108,),
    "Q4_K": (0, 2), "Q5_K": (0, 2), "Q6_K": (208,), "IQ4_NL": (0,), "IQ4_XS": (0,),
}  # fmt: skip


def read_bytes(info: TensorInfo, start: int = 0, size: int | None = None) -> Bytes:
    """`size` bytes of a tensor from its byte `start` on, by default all; raises CheckpointError where the file has become shorter."""
    size = info.size_bytes - start if size is None else size
    data = np.fromfile(info.path, np.uint8, size, offset=info.offset + start)
    if len(data) != size:
        raise CheckpointError(f"`{info.path}` ends inside a tensor: it has changed", hint="get the file again")
    return data


def chunks(info: TensorInfo, rows: slice) -> Iterator[Bytes]:
    """Rows of a tensor's bytes, `[rows, bytes a row]`, about a million weights at a time."""
    width = row_bytes(info.kind, info.shape[-1])
    step = max(1, _CHUNK_WEIGHTS // info.shape[-1])
    for start in range(rows.start, rows.stop, step):
        count = min(step, rows.stop - start)
        yield read_bytes(info, start * width, count * width).reshape(count, width)


def ordered(rows: NDArray[Any], heads: int) -> NDArray[Any]:
    """Rows in Hugging Face's order: row i of a head lies at 2i, row i + D/2 at 2i + 1; as they are for 0 `heads`."""
    if not heads:
        return rows
    order = np.arange(len(rows)).reshape(heads, -1, 2).swapaxes(1, 2).reshape(-1)
    return np.ascontiguousarray(rows[order])


def finite(name: str, values: Floats) -> Floats:
    """`values` of tensor `name`; raises TensorError for NaN or infinity."""
    if not np.isfinite(values).all():
        raise _not_finite(name)
    return values


def check_finite(name: str, rows: Bytes, kind: str) -> None:
    """Raise TensorError where a number of these rows of blocks is not finite."""
    if kind == "BF16":
        finite(name, (np.ascontiguousarray(rows).view(np.uint16).astype(np.uint32) << 16).view(np.float32))
    elif kind not in _HALVES:
        finite(name, dequantize(rows, kind))
    else:
        blocks = rows.reshape(-1, row_bytes(kind, 256 if kind.endswith(("_K", "_XS")) else 32))
        for at in _HALVES[kind]:
            if (float16_at(blocks, at).view(np.uint16) & 0x7C00 == 0x7C00).any():
                raise _not_finite(name)


def _not_finite(name: str) -> TensorError:
    return TensorError(f"`{name}` holds NaN or infinity", hint="the file is damaged: get it again")
