"""Text files and a checkpoint's own tokenizer, read without torch or transformers."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

from tokenizers import Tokenizer

from ovround.errors import CalibrationError, CheckpointError


def read_texts(path: Path) -> Iterator[str]:
    """The documents of a file: one for plain text, the `text` of each line for .jsonl; raises CalibrationError naming the line."""
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
    # splitlines would also cut at separators that stand inside JSON strings, such as U+2028
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
            raise CalibrationError(f"`{path}` line {number}: `text` is no text that UTF-8 can write: {error}") from None
        yield text


def load_tokenizer(folder: Path) -> Tokenizer:
    """The fast tokenizer of a checkpoint; raises CheckpointError when tokenizer.json is missing or damaged."""
    path = folder / "tokenizer.json"
    if not path.is_file():
        raise CheckpointError(
            f"`{folder}` has no tokenizer.json",
            hint="write one: AutoTokenizer.from_pretrained(folder).save_pretrained(folder)",
        )
    try:
        tokenizer = Tokenizer.from_file(str(path))
    except Exception as error:
        raise CheckpointError(f"`{path}` cannot be read: {error}", hint="download it again") from error
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return tokenizer
