"""What every target offers `convert`: it takes weights as they are finished, closes the folder, and reads itself back."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

from ovround.tensors.codebook_tensor import CodebookTensor
from ovround.tensors.float_tensor import FloatTensor
from ovround.tensors.qtensor import QTensor

Weight = QTensor | FloatTensor | CodebookTensor


class Exporter(Protocol):
    """One output folder in the making. Calls come in this order: `write` for each weight, `finish` once, then `read`."""

    folder: Path

    def write(self, name: str, weight: Weight) -> None:
        """Append one weight; nothing of it is kept in memory."""
        ...

    def finish(self) -> None:
        """Write the graph, the tokenizer and the configuration beside the weights."""
        ...

    def read(self, name: str) -> Weight:
        """Read one weight back from the finished files; raises VerifyError when it cannot be found there."""
        ...

    def close(self) -> None:
        """Release open files; safe to call at any time and more than once."""
        ...
