"""A latency table: milliseconds that one decoded token spends in a linear layer, by shape and bits, on one device.

{"format_version": 1, "format": "openvino", "device": "CPU", "device_name": "...", "threads": null, "group_size": null,
 "symmetric": true, "versions": {"openvino": "..."}, "rows": [{"outputs": 2048, "inputs": 2048, "bits": 4, "ms": 0.061}]}
"""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ovround.artifact.manifest import ENGINE_FORMATS
from ovround.artifact.output_folder import write_atomically
from ovround.errors import OutputError, UsageError
from ovround.tensors.qtensor import BITS, GROUP_SIZES
from ovround.tensors.scheme import FLOAT_BITS, QuantScheme, default_group_size

FORMAT_VERSION = 1
_HINT = "`ovround profile MODEL FILE` measures one"


@dataclass(frozen=True, slots=True)
class LatencyRow:
    """Median milliseconds of one product of a token with a weight `[outputs, inputs]`; `bits` 16 for the checkpoint's floats."""

    outputs: int
    inputs: int
    bits: int
    ms: float

    def __post_init__(self) -> None:
        counts = (self.outputs, self.inputs)
        if any(type(count) is not int or count < 1 for count in counts) or self.bits not in (*BITS, FLOAT_BITS):
            raise ValueError(f"no weight is {self.outputs} x {self.inputs} at {self.bits} bits")
        if not isinstance(self.ms, float) or not 0 < self.ms < math.inf:
            raise ValueError(f"a latency of {self.ms} ms")


@dataclass(frozen=True, slots=True)
class LatencyTable:
    """Everything that the file says; `threads` None where the engine chose, `device_name` the device's own name for itself.

    `group_size` None: each weight in the groups that are its default.
    """

    format: str
    device: str
    device_name: str
    threads: int | None
    group_size: int | None
    symmetric: bool
    versions: dict[str, str]
    rows: tuple[LatencyRow, ...]
    format_version: int = FORMAT_VERSION

    def __post_init__(self) -> None:
        if (
            self.format_version != FORMAT_VERSION
            or self.format not in ENGINE_FORMATS
            or self.group_size not in (*GROUP_SIZES, None)
        ):
            raise ValueError(f"format {self.format_version}, for {self.format}, groups of {self.group_size}")

    def to_json(self) -> str:
        return json.dumps(asdict(self), indent=1) + "\n"

    def milliseconds(self, name: str, shape: tuple[int, ...], scheme: QuantScheme | None, source: Path) -> float:
        """The time of module `name` with `scheme`; raises UsageError naming what `source`, the file of this table, lacks."""
        group_size = default_group_size(shape[1]) if self.group_size is None else self.group_size
        if scheme is not None and (scheme.group_size, scheme.symmetric) != (group_size, self.symmetric):
            raise UsageError(
                f"latency table `{source}` was measured with {_scheme_words(group_size, self.symmetric)}; "
                f"`{name}` has {_scheme_words(scheme.group_size, scheme.symmetric)}",
                hint="measure one with the same --group-size and --sym/--asym",
            )
        bits = FLOAT_BITS if scheme is None else scheme.bits
        for row in self.rows:
            if (row.outputs, row.inputs, row.bits) == (*shape, bits):
                return row.ms
        raise UsageError(
            f"latency table `{source}` has no row for {shape[0]} x {shape[1]} at {bits} bits, which `{name}` needs",
            hint="it was measured for another model: `ovround profile` with this one",
        )


def read_table(path: Path) -> LatencyTable:
    """Read a table; raises UsageError when `path` holds none."""
    try:
        raw: Any = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UsageError(f"latency table `{path}` does not exist", hint=_HINT) from None
    except (OSError, ValueError, RecursionError) as error:
        raise UsageError(f"latency table `{path}` cannot be read: {error}", hint=_HINT) from error
    try:
        return LatencyTable(**{**raw, "rows": tuple(LatencyRow(**row) for row in raw["rows"])})
    except (KeyError, TypeError, ValueError) as error:
        raise UsageError(f"`{path}` is no latency table of format {FORMAT_VERSION}: {error}", hint=_HINT) from error


def write_table(path: Path, table: LatencyTable) -> None:
    """Write `table` whole or not at all; raises OutputError."""
    try:
        write_atomically(path, table.to_json().encode())
    except OSError as error:
        raise OutputError(f"`{path}` cannot be written: {error}") from error


def check_table_path(path: Path) -> None:
    """Raise OutputError when a table may not be written to `path`: it holds something else, or its folder does not exist."""
    if not path.absolute().parent.is_dir():
        raise OutputError(f"`{path.parent}` is no folder", hint="make it first")
    if path.exists():
        try:
            read_table(path)
        except UsageError:
            raise OutputError(f"`{path}` exists and is no latency table", hint="choose another file") from None


def _scheme_words(group_size: int, symmetric: bool) -> str:
    groups = "one group a row" if group_size == -1 else f"groups of {group_size}"
    return f"{groups}, {'symmetric' if symmetric else 'asymmetric'}"
