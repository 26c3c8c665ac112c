"""The libraries of the native operator for all engines: their paths, and errors and warnings for a missing one."""

from __future__ import annotations

import sys
import warnings
from pathlib import Path

import ovround
from ovround.errors import EngineError


class ExpandedWeightsWarning(UserWarning):
    """Weights were expanded because the native library is missing."""


def file_name(library: str) -> str:
    return {"win32": f"{library}.dll", "darwin": f"lib{library}.dylib"}.get(sys.platform, f"lib{library}.so")


def installed(file: str) -> Path | None:
    """Path of the installed library `file`; None if it is not installed."""
    paths = (Path(folder) / "native" / "lib" / file for folder in ovround.__path__)
    return next((path for path in paths if path.is_file()), None)


def check_expandable(folder: Path, device: str, kernel: str, install: str) -> None:
    """Raise EngineError if `kernel` forbids the expansion of weights; `install` is the hint for the library."""
    if kernel == "native":
        why = "which is not installed" if device == "CPU" else f"which {device} cannot run"
        raise EngineError(
            f"`{folder}` has weights for the native operator, {why}",
            hint=install if device == "CPU" else "choose CPU, or --kernel auto, which expands them",
        )


def warn_expanded(folder: Path, device: str, install: str, count: int, before: int, after: int, but: str = "") -> None:
    """Warn that `count` weights of `before` bytes were expanded to `after` bytes; `but` adds a condition."""
    why = f"is not installed ({install})" if device == "CPU" else f"does not run on {device}"
    warnings.warn(
        f"`{folder}`: the native operator {why}, so {count} weights were expanded: {after / 1e6:.0f} MB in place of "
        f"{before / 1e6:.0f} MB{but}",
        ExpandedWeightsWarning,
        stacklevel=3,
    )
