"""The library of the native operator for ONNX Runtime, whether a model needs it, and whether an ordinary model gets it."""

from __future__ import annotations

import mmap
import warnings
from pathlib import Path

from ovround.errors import EngineError
from ovround.runtime.engines.native.library import INSTALL as INSTALL
from ovround.runtime.engines.native.library import UnusedKernelsWarning, file_name, installed, is_faster
from ovround.tensors.native_layout import OPERATOR

LIBRARY = file_name("ovround_onnx_operator")
_MARK = b'"' + bytes([len(OPERATOR)]) + OPERATOR.encode()  # a NodeProto's field 4, the operator's name


def library_path() -> Path | None:
    """Path of the installed native library; None if it is not installed."""
    return installed(LIBRARY)


def needs_operator(path: Path) -> bool:
    """Whether the model at `path` has nodes of the native operator."""
    if not path.stat().st_size:
        return False
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        return content.find(_MARK) >= 0


def choose_library(kernel: str, *, exact: bool) -> Path | None:
    """The library that computes the products of ordinary folders; None for ONNX Runtime's kernels.

    `auto` uses it where it is installed and the processor has 8-bit dot products, except in exact mode. `native` without a library is
    an EngineError.
    """
    library = library_path()
    if kernel == "native":
        if library is None:
            raise EngineError("kernel is `native`, yet the native operator is not installed", hint=INSTALL)
        return library
    if kernel == "engine" or exact or library is None:
        return None
    try:
        return library if is_faster(library) else None
    except OSError as error:
        warn_unused(f"`{library}` cannot be loaded: {error}")
        return None


def warn_unused(reason: str) -> None:
    """Warn that ONNX Runtime's own kernels compute because of `reason`."""
    warnings.warn(f"{reason}; ONNX Runtime's own kernels compute", UnusedKernelsWarning, stacklevel=3)
