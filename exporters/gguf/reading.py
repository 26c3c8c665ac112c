"""Reads the weights of a written GGUF file, by the reader of everybody's files (`ovround.checkpoint.gguf`).

Grids may lie in wider codes and smaller groups, and float tensors in float32; the manifest states the scheme that each weight was
tuned on, to which it is brought back exactly.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from ovround.artifact.manifest import WeightRecord
from ovround.checkpoint.gguf import open_gguf
from ovround.checkpoint.gguf.affine_blocks import AFFINE_KINDS, affine_tensor
from ovround.errors import OvroundError, VerifyError
from ovround.exporters.exporter import Weight
from ovround.exporters.gguf.blocks import minima_of
from ovround.exporters.gguf.package import FILE
from ovround.models import from_config
from ovround.tensors.affine_tensor import AffineTensor
from ovround.tensors.float_tensor import FloatTensor
from ovround.tensors.qtensor import QTensor
from ovround.tensors.reexpression import restored


class Reader:
    """Reads one weight at a time; `exporters.exporter.Reader` is the protocol."""

    def __init__(self, folder: Path, records: Mapping[str, WeightRecord]) -> None:
        """Compares names, types and shapes of all tensors with what the file's metadata call for."""
        self._records = records
        try:
            source = open_gguf(folder / FILE)
            decoder = from_config(source.config)
            self._source = source.located(decoder.every_tensor())
            self._source.check(decoder.every_tensor(), decoder.unused_tensors())
        except (OvroundError, ValueError) as error:
            raise VerifyError(f"`{folder.name}` cannot be read back: {error}") from error

    def read(self, name: str) -> Weight:
        record = self._records[name]
        try:
            if record.group_size and (record.affine or not record.symmetric):
                return self._with_minimums(name, record)
            weight = self._source.read(name, record.shape)
            if isinstance(weight, QTensor) and record.group_size:
                return restored(weight, record.bits, record.group_size, record.symmetric)
            if isinstance(weight, FloatTensor) and not record.group_size:
                return _narrowed(weight, record)
            raise ValueError(f"it is a {type(weight).__name__}")
        except (OvroundError, ValueError) as error:
            raise VerifyError(f"weight `{name}` cannot be read back: {error}") from error

    def _with_minimums(self, name: str, record: WeightRecord) -> AffineTensor | QTensor:
        kind, blocks = self._source.blocks(name)
        if kind not in AFFINE_KINDS:
            raise ValueError(f"it is {kind}")
        tensor = affine_tensor(blocks, kind)
        if record.affine:
            return tensor
        return restored(_on_whole_steps(tensor), record.bits, record.group_size, record.symmetric)


def _on_whole_steps(tensor: AffineTensor) -> QTensor:
    """Q4_1 with its minimums as zero points; raises ValueError for one that is no whole number of steps, rounded to float16."""
    if tensor.minimums is None or tensor.scales.factors is not None:
        raise ValueError(f"it is on the grid {tensor.scheme.spec}")
    scales, minimums = tensor.scales.blocks, tensor.minimums.blocks
    steps = np.divide(minimums, scales, out=np.zeros(scales.shape, np.float32), where=scales != 0, dtype=np.float32)
    zero_points = np.rint(steps)
    if ((zero_points < 0) | (zero_points >= 1 << tensor.bits)).any():
        raise ValueError("a minimum is beyond the codes")
    whole = QTensor(tensor.codes, scales, zero_points.astype(np.uint8), tensor.bits)
    if (minima_of(whole) != -minimums).any():
        raise ValueError("a minimum is no whole number of steps")
    return whole


def _narrowed(weight: FloatTensor, record: WeightRecord) -> FloatTensor:
    """`weight` in the type that was handed over, which the file may hold as float32: of two that hold it, the recorded one."""
    if record.bits == 8 * weight.data.itemsize:
        return weight
    values = weight.float32()
    fitting = [FloatTensor.of(values, "bfloat16"), FloatTensor.of(values, "float16")]
    fitting = [narrow for narrow in fitting if np.array_equal(narrow.float32(), values)]
    if not fitting:
        raise ValueError(f"its values are no numbers of {record.bits} bits")
    return next((narrow for narrow in fitting if narrow.digest() == record.sha256), fitting[0])
