"""One file that `torch.save` wrote, such as pytorch_model.bin: a dictionary of tensors, read without running its code.

`torch.load(weights_only=True)` builds tensors and plain containers alone, and refuses a pickle that asks for anything else. A file
in the format of torch 1.6 and later is mapped, and each tensor is copied out of the map as it is read, so one tensor is in
memory at a time. A file in the format before that cannot be mapped: it is held in memory, one such file at a time.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from pickle import UnpicklingError
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ovround.artifact.manifest import sha256_file
from ovround.checkpoint.files.element_types import (
    ARRAY_TYPES,
    TensorInfo,
    as_float,
    check_float,
    check_readable,
    is_finite,
)
from ovround.errors import CheckpointError, MissingExtraError, TensorError
from ovround.tensors.float_tensor import FloatTensor

if TYPE_CHECKING:
    import torch

_TYPES = {
    "float64": "F64", "float32": "F32", "float16": "F16", "bfloat16": "BF16", "float8_e4m3fn": "F8_E4M3", "float8_e5m2": "F8_E5M2",
    "float8_e8m0fnu": "F8_E8M0", "int8": "I8", "uint8": "U8", "int16": "I16", "int32": "I32", "int64": "I64", "bool": "BOOL",
}  # fmt: skip
_ZIP = b"PK\x03\x04"
# What a damaged or hostile pickle makes of torch's reader, which interprets it.
_LOAD_ERRORS = (
    UnpicklingError, RuntimeError, EOFError, OSError, MemoryError, ArithmeticError, AssertionError, AttributeError,
    ImportError, LookupError, TypeError, ValueError,
)  # fmt: skip
_FORBIDDEN = re.compile(r"(?:GLOBAL|class) ([\w.]+)")
_UNPICKLER = "WeightsUnpickler error:"
_SAFE = "get the model in safetensors, or from whoever made it: the file is damaged, or runs code when it is loaded"


@dataclass(slots=True)
class LoadedFile:
    """The tensors of the last file that had to be loaded whole; the files of a checkpoint share one."""

    path: Path | None = None
    tensors: Mapping[str, torch.Tensor] = field(default_factory=dict)

    def of(self, path: Path) -> Mapping[str, torch.Tensor]:
        """The tensors of `path`; those of another file are dropped first."""
        if self.path != path:
            self.path, self.tensors = None, {}
            self.tensors, self.path = _load(path, mapped=False), path
        return self.tensors


@dataclass(frozen=True, slots=True)
class TorchFile:
    """A file and its tensors; see `WeightsFile`. `stored_names` gives the name in the file, by the model's own name."""

    path: Path
    tensors: dict[str, TensorInfo]
    stored_names: dict[str, str]
    mapped: bool
    loaded: LoadedFile

    def read(self, name: str, index: int | None = None) -> FloatTensor:
        """One floating-point tensor, or its part at `index` of the first axis; raises TensorError for any other type."""
        info = self.tensors[name]
        check_float(name, self.path.name, info.dtype)
        return as_float(self.read_array(name, index), info.dtype)

    def read_columns(self, name: str, columns: slice) -> FloatTensor:
        """These columns of a floating-point matrix; raises TensorError for any other type."""
        tensor = self.read(name)
        return FloatTensor(np.ascontiguousarray(tensor.data[:, columns]), tensor.dtype)

    def read_array(self, name: str, index: int | None = None) -> NDArray[Any]:
        """One tensor of any type of `ARRAY_TYPES`, or its part at `index` of the first axis.

        Raises TensorError for another type, and CheckpointError for a file that has changed since it was opened.
        """
        info = self.tensors[name]
        check_readable(name, self.path.name, info.dtype)
        tensors = _load(self.path, mapped=True) if self.mapped else self.loaded.of(self.path)
        tensor = tensors.get(self.stored_names[name])
        if tensor is None or _info(tensor) != info:
            raise CheckpointError(f"`{self.path}` has changed since it was opened", hint="start again")
        return _array(tensor if index is None else tensor[index], info.dtype)

    def scan(self) -> str:
        """The file's sha256, having looked at every value; raises TensorError naming a tensor with NaN or infinity."""
        for name, info in self.tensors.items():
            if info.dtype in ARRAY_TYPES and not is_finite(self.read_array(name), info.dtype):
                raise TensorError(
                    f"`{name}` in `{self.path}` holds NaN or infinity", hint="the checkpoint is damaged: get it again"
                )
        return sha256_file(self.path)

    def renamed(self, names: Mapping[str, str]) -> TorchFile:
        """The same file with tensor `names[x]` for each tensor x."""
        return replace(
            self,
            tensors={names[name]: info for name, info in self.tensors.items()},
            stored_names={names[name]: stored for name, stored in self.stored_names.items()},
        )


def open_torch(path: Path, loaded: LoadedFile) -> TorchFile:
    """Open a file of tensors by name; raises CheckpointError for one that is damaged, runs code, or holds something else."""
    with path.open("rb") as file:
        mapped = file.read(len(_ZIP)) == _ZIP
    tensors = _load(path, mapped=True) if mapped else loaded.of(path)
    return TorchFile(
        path,
        {name: _info(tensor) for name, tensor in tensors.items()},
        {name: name for name in tensors},
        mapped,
        loaded,
    )


def _load(path: Path, *, mapped: bool) -> dict[str, torch.Tensor]:
    try:
        import torch
    except ModuleNotFoundError as error:
        raise MissingExtraError("torch", "convert") from error
    try:
        with warnings.catch_warnings():  # of pickle protocols after 2, which other tools write
            warnings.simplefilter("ignore")
            content = torch.load(path, map_location="cpu", weights_only=True, mmap=mapped)
    except _LOAD_ERRORS as error:
        raise CheckpointError(f"`{path}` cannot be read as tensors alone: {_reason(error)}", hint=_SAFE) from error
    if not isinstance(content, dict):
        raise CheckpointError(f"`{path}` holds a {type(content).__name__}; a dictionary of tensors by name is needed")
    inner = next((key for key, value in content.items() if isinstance(value, dict)), None)
    if inner is not None:
        raise CheckpointError(
            f"`{path}` holds a dictionary under `{inner!s:.60}`, as training checkpoints do; tensors by name are needed",
            hint="if those are the weights, and the file is yours: "
            f'python -c "import torch; f = {str(path)!r}; torch.save(torch.load(f)[{inner!r:.60}], f)"',
        )
    return {str(name): value.detach() for name, value in content.items() if isinstance(value, torch.Tensor)}


def _reason(error: Exception) -> str:
    """What torch says, without its advice to turn the check off."""
    said = str(error).strip()
    forbidden = _FORBIDDEN.search(said)
    if forbidden:
        return f"it asks for `{forbidden[1]:.80}`"
    lines = said.rpartition(_UNPICKLER)[2].strip().splitlines()
    return f"{lines[0]:.200}" if lines else type(error).__name__


def _info(tensor: torch.Tensor) -> TensorInfo:
    """`dtype` is torch's own name where safetensors has none, or where the tensor is sparse or quantised."""
    kind = str(tensor.dtype).removeprefix("torch.")
    plain = str(tensor.layout) == "torch.strided" and not tensor.is_quantized and tensor.device.type == "cpu"
    dtype = _TYPES.get(kind, kind) if plain else f"{kind} ({tensor.layout}, {tensor.device.type})"
    return TensorInfo(dtype, tuple(tensor.shape), 0, tensor.numel() * tensor.element_size())


def _array(tensor: torch.Tensor, dtype: str) -> NDArray[Any]:
    """A copy of the values in the order of their axes, as `ARRAY_TYPES` holds them."""
    import torch

    storage = np.dtype(ARRAY_TYPES[dtype])
    contiguous = tensor.contiguous()
    bits = contiguous.reshape(-1).view(torch.uint8) if contiguous.numel() else torch.zeros(0, dtype=torch.uint8)
    values: NDArray[Any] = np.array(bits.numpy(), copy=True).view(storage).reshape(tuple(tensor.shape))
    return values
