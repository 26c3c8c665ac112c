"""The library of the native operator for ONNX Runtime, and the check whether a model needs it."""

from __future__ import annotations

import mmap
from pathlib import Path

from ovround.runtime.engines.native.library import INSTALL as INSTALL
from ovround.runtime.engines.native.library import file_name, installed
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
