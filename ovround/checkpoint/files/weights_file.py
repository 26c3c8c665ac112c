"""The protocol of a file of weights, safetensors or torch's: which tensors it has, and how one of them is read."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Protocol

from numpy.typing import NDArray

from ovround.checkpoint.files.element_types import TensorInfo
from ovround.tensors.float_tensor import FloatTensor


class WeightsFile(Protocol):
    """A file and its tensors under the model's own names."""

    @property
    def path(self) -> Path: ...

    @property
    def tensors(self) -> dict[str, TensorInfo]: ...

    def read(self, name: str, index: int | None = None) -> FloatTensor:
        """One floating-point tensor, or its part at `index` of the first axis; raises TensorError for any other type."""
        ...

    def read_columns(self, name: str, columns: slice) -> FloatTensor:
        """These columns of a floating-point matrix, whose others are not kept; raises TensorError for any other type."""
        ...

    def read_array(self, name: str, index: int | None = None) -> NDArray[Any]:
        """One tensor of any type of `ARRAY_TYPES`, as it is stored; raises TensorError for another type."""
        ...

    def scan(self) -> str:
        """The file's sha256, having looked at every value on the way; raises TensorError naming a tensor with NaN or infinity."""
        ...

    def renamed(self, names: dict[str, str]) -> WeightsFile:
        """The same file with tensor `names[x]` for each tensor x."""
        ...
