"""Results on stdout: tables for people, one JSON document for programs."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import typer


def print_json(value: Any) -> None:
    """One line of JSON."""
    typer.echo(json.dumps(value, sort_keys=True))


def print_table(head: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """Columns as wide as their widest cell; numbers to the right."""
    cells = [[str(cell) for cell in row] for row in rows]
    widths = [max(len(row[i]) for row in [list(head), *cells]) for i in range(len(head))]
    right = [bool(cells) and all(_numeric(row[i]) for row in cells) for i in range(len(head))]
    for row in [list(head), ["-" * width for width in widths], *cells]:
        line = "  ".join(
            cell.rjust(width) if to_right else cell.ljust(width)
            for cell, width, to_right in zip(row, widths, right, strict=True)
        )
        typer.echo(line.rstrip())


def megabytes(size_bytes: float) -> str:
    """A size for people, in MB of 10^6 bytes."""
    return f"{size_bytes / 1e6:.2f}" if size_bytes < 1e8 else f"{size_bytes / 1e6:.0f}"


def _numeric(cell: str) -> bool:
    return not cell.strip("0123456789.+-%e, ") if cell else True
