"""The libraries of the native operator for all engines: their paths, and errors and warnings for a missing one.

The kernels are a library of their own with a C interface (`runtime/native/include/ovround/kernels.h`). The operators of OpenVINO
and of ONNX Runtime find it beside themselves.
"""

from __future__ import annotations

import ctypes
import sys
import warnings
from pathlib import Path

import ovround
from ovround.errors import EngineError

INSTALL = "a wheel of `make wheel` has it; OVROUND_NATIVE=1 pip install ovround builds it with a C++ compiler and CMake"
INTERFACE = 1  # OVROUND_KERNELS_VERSION


class UnusedKernelsWarning(UserWarning):
    """The native operator is installed, and the engine's own kernels compute in its place."""


class ExpandedWeightsWarning(UserWarning):
    """Weights were expanded because the native library is missing."""


def file_name(library: str) -> str:
    return {"win32": f"{library}.dll", "darwin": f"lib{library}.dylib"}.get(sys.platform, f"lib{library}.so")


def installed(file: str) -> Path | None:
    """Path of the installed library `file`; None if it is not installed."""
    paths = (Path(folder) / "native" / "lib" / file for folder in ovround.__path__)
    return next((path for path in paths if path.is_file()), None)


KERNELS = file_name("ovround_kernels")


def load_kernels(library: Path) -> ctypes.CDLL:
    """The kernels beside an operator's `library`; OSError if they cannot be loaded or are older than this code."""
    kernels = ctypes.CDLL(str(library.with_name(KERNELS)))
    version = int(kernels.ovround_kernels_version())
    if version < INTERFACE:
        raise OSError(f"`{library.with_name(KERNELS)}` has interface {version}; {INTERFACE} is needed")
    kernels.ovround_kernels_isa.restype = ctypes.c_char_p
    return kernels


def is_faster(library: Path) -> bool:
    """Whether the operator is faster on this processor than the engine's kernels; OSError as from `load_kernels`."""
    return bool(load_kernels(library).ovround_kernels_is_faster())


def instruction_set(library: Path) -> str:
    """The instruction set that the kernels use on this processor; OSError as from `load_kernels`."""
    name: bytes = load_kernels(library).ovround_kernels_isa()
    return name.decode()


def check_expandable(folder: Path, device: str, kernel: str, hint: str, reason: str = "is not installed") -> None:
    """Raise EngineError if `kernel` forbids the expansion of weights; `reason` and `hint` are for CPU."""
    if kernel == "native":
        why = f"which {reason}" if device == "CPU" else f"which {device} cannot run"
        raise EngineError(
            f"`{folder}` has weights for the native operator, {why}",
            hint=hint if device == "CPU" else "choose CPU, or --kernel auto, which expands them",
        )


def warn_expanded(
    folder: Path, device: str, hint: str, count: int, before: int, after: int, but: str = "", reason: str = "is not installed"
) -> None:  # fmt: skip
    """Warn that `count` weights of `before` bytes were expanded to `after` bytes; `but` adds a condition."""
    why = f"{reason} ({hint})" if device == "CPU" else f"does not run on {device}"
    warnings.warn(
        f"`{folder}`: the native operator {why}, so {count} weights were expanded: {after / 1e6:.0f} MB in place of "
        f"{before / 1e6:.0f} MB{but}",
        ExpandedWeightsWarning,
        stacklevel=3,
    )
