"""What OpenVINO's own writers need around them: the same bytes for the same model, and an error that says what it is."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import openvino as ov

from ovround.errors import OutputError

_MADE_UP = re.compile(r"[A-Za-z][A-Za-z0-9]*_\d+([.:]\d+)?")  # Multiply_1204, as OpenVINO names what nobody named


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
    """Number the nodes without a name within their model: OpenVINO's own numbers go on from model to model in a process."""
    for number, node in enumerate(model.get_ordered_ops()):
        if _MADE_UP.fullmatch(node.get_friendly_name()):
            node.set_friendly_name(f"{node.get_type_name()}_{number}")
        for place, output in enumerate(node.outputs()):
            names = {
                f"{node.get_type_name()}_{number}:{place}" if _MADE_UP.fullmatch(name) else name
                for name in output.get_names()
            }
            output.set_names(names)
