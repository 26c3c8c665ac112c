"""Text files for calibration and evaluation."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

from ovround.errors import CalibrationError


def read_texts(path: Path) -> Iterator[str]:
    """The documents of a file: a plain text is one, a .jsonl file has one in the `text` of each line.

    Raises CalibrationError; for a .jsonl file it names the line.
    """
    try:
        content = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise CalibrationError(f"text file `{path}` does not exist") from None
    except (OSError, UnicodeDecodeError) as error:
        raise CalibrationError(
            f"text file `{path}` cannot be read: {error}", hint="UTF-8 text or .jsonl is needed"
        ) from error
    if path.suffix != ".jsonl":
        yield content
        return
    # splitlines() also splits at separators that JSON strings may contain, such as U+2028
    for number, line in enumerate(content.split("\n"), 1):
        if not line.strip():
            continue
        try:
            text = json.loads(line)["text"]
        except (ValueError, KeyError, TypeError, RecursionError):
            raise CalibrationError(f"`{path}` line {number} is no JSON object with `text`") from None
        if not isinstance(text, str):
            raise CalibrationError(f"`{path}` line {number}: `text` is no string")
        try:
            text.encode()
        except UnicodeEncodeError as error:
            raise CalibrationError(f"`{path}` line {number}: `text` cannot be written as UTF-8: {error}") from None
        yield text
