"""Calls of OpenVINO's own writers: equal models give equal bytes, and a failure becomes an OutputError."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import openvino as ov

from ovround.errors import OutputError

_MADE_UP = re.compile(
    r"[A-Za-z][A-Za-z0-9]*_\d+([.:]\d+)?"
)  # Multiply_1204: the name that OpenVINO gives to an unnamed node


def saved(path: Path, write: Callable[[], object]) -> None:
    """Let OpenVINO write `path`; raises OutputError when it could not."""
    try:
        write()
    except RuntimeError as error:
        reason = str(error).strip().splitlines()[-1:]
        raise OutputError(
            f"OpenVINO could not write `{path.name}`: {' '.join(reason)}", hint="free some space and run again"
        ) from error


def count_names(model: ov.Model) -> None:
    """Rename unnamed nodes by their number in the model: OpenVINO counts through all models of a process."""
    for number, node in enumerate(model.get_ordered_ops()):
        if node.get_type_name() in ("Loop", "TensorIterator"):
            count_names(node.get_function())
        if _MADE_UP.fullmatch(node.get_friendly_name()):
            node.set_friendly_name(f"{node.get_type_name()}_{number}")
        for index, output in enumerate(node.outputs()):
            names = {
                f"{node.get_type_name()}_{number}:{index}" if _MADE_UP.fullmatch(name) else name
                for name in output.get_names()
            }
            output.set_names(names)
