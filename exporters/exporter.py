"""What every format offers: an `Exporter` that writes a folder, and a `Reader` that reads the weights of a written folder.

`ovround.exporters.formats` opens both by the format's name.
"""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

from ovround.artifact.manifest import WeightRecord
from ovround.tensors.affine_tensor import AffineTensor
from ovround.tensors.codebook_tensor import CodebookTensor
from ovround.tensors.float_tensor import FloatTensor
from ovround.tensors.qtensor import QTensor

Weight = QTensor | FloatTensor | AffineTensor | CodebookTensor


class Exporter(Protocol):
    """One output folder that is being written: `write` for each weight, then `finish` once."""

    folder: Path

    def write(self, name: str, weight: Weight) -> None:
        """Append one weight; nothing of it stays in memory."""
        ...

    def finish(self) -> None:
        """Write the graph, the tokenizer and the configuration beside the weights."""
        ...

    def close(self) -> None:
        """Release open files; may be called at any time and more than once."""
        ...


class Reader(Protocol):
    """The weights of a written folder; knows the folder and its manifest, and nothing of the exporter that wrote it."""

    def read(self, name: str) -> Weight:
        """The weight `name`, exactly as it was handed to the exporter.

        Raises VerifyError when the files do not hold such a weight.
        """
        ...


def record_of(name: str, weight: Weight, relative_error: float = 0.0) -> WeightRecord:
    """What the manifest states of a weight: enough, with the files, to read it back."""
    codebooks, affine, scale_bits = "", "", 16
    if isinstance(weight, CodebookTensor):
        count, _, _, group_size = weight.codebooks.shape
        codebooks, bits, symmetric = f"{count}x{weight.code_bits}", -(-count * weight.code_bits // group_size), True
    elif isinstance(weight, QTensor | AffineTensor):
        bits, group_size, symmetric = weight.bits, weight.group_size, weight.symmetric
        affine = weight.scheme.spec if isinstance(weight, AffineTensor) else ""
        scale_bits = weight.scale_bits if isinstance(weight, QTensor) else 16
    else:
        bits, group_size, symmetric = 8 * weight.data.itemsize, 0, True
    return WeightRecord(
        name,
        weight.shape,
        bits,
        group_size,
        symmetric,
        weight.size_bytes,
        weight.digest(),
        relative_error,
        codebooks,
        affine,
        scale_bits,
    )
