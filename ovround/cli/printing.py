"""Results on stdout: tables for people, one JSON document for programs."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import typer

if TYPE_CHECKING:
    from ovround.runtime import Piece


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


def print_statistics(last: Piece) -> None:
    """What an answer took, of its last piece, on stderr."""
    if last.usage is None or last.timings is None:
        return
    usage, times = last.usage, last.timings
    parts = [f"{usage.completion_tokens} tokens", f"first after {times.time_to_first_token_s * 1e3:.0f} ms"]
    if times.time_per_output_token_s:
        parts.append(f"{1 / times.time_per_output_token_s:.1f} tokens/s")
    if usage.cached_tokens:
        parts.append(f"{usage.cached_tokens} of {usage.prompt_tokens} prompt tokens from the cache")
    if usage.drafted_tokens:
        parts.append(f"{usage.accepted_tokens} of {usage.drafted_tokens} proposed tokens accepted")
    if last.finish_reason == "cancelled":
        parts.append("stopped")
    print(", ".join(parts), file=sys.stderr)


def _numeric(cell: str) -> bool:
    return not cell.strip("0123456789.+-%e, ") if cell else True
