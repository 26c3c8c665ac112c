"""The records of a file of texts, one after the other: plain text, JSON, JSON lines, CSV or Parquet, gzipped or not."""

from __future__ import annotations

import csv
import gzip
import json
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

from ovround.errors import CalibrationError, MissingExtraError

Place = str
_LINES = (".jsonl", ".ndjson", ".jsonlines")
_TABLES = {".csv": ",", ".tsv": "\t"}
_COLUMNAR = (".parquet", ".arrow", ".feather")
_PLAIN = (".txt", ".text", ".md")
SUFFIXES = (*_LINES, ".json", *_TABLES, *_COLUMNAR, *_PLAIN)
_BATCH_ROWS = 256
_LARGEST_FIELD = 1 << 30  # csv's own limit is 131,072 characters


def suffix_of(name: str) -> str:
    """The ending that tells the format of `name`; that of a gzipped file's contents."""
    return Path(name.lower().removesuffix(".gz")).suffix


def records(path: Path) -> Iterator[tuple[Place, Any]]:
    """Each record of the file and where it lies, in words; a plain text is one record.

    Raises CalibrationError for a file that cannot be read, and for lines that are no JSON.
    """
    if not path.exists():
        raise CalibrationError(f"text file `{path}` does not exist")
    suffix = suffix_of(path.name)
    try:
        if suffix in _COLUMNAR:
            yield from _columnar(path, suffix)
        elif suffix in _LINES:
            yield from _lines(path)
        elif suffix in _TABLES:
            yield from _table(path, _TABLES[suffix])
        elif suffix == ".json":
            yield from _json(path)
        else:
            yield f"`{path}`", _plain(path, suffix)
    except (OSError, UnicodeDecodeError, EOFError) as error:
        raise CalibrationError(
            f"text file `{path}` cannot be read: {error}",
            hint=f"UTF-8 is needed; formats by ending: {', '.join(SUFFIXES)}, and .gz after it",
        ) from error


def _open(path: Path, newline: str | None = None) -> IO[str]:
    if path.suffix.lower() == ".gz":
        return gzip.open(path, "rt", encoding="utf-8", newline=newline)
    return path.open(encoding="utf-8", newline=newline)


def _plain(path: Path, suffix: str) -> str:
    with _open(path) as file:
        text = file.read()
    if suffix != ".md" and text.lstrip()[:1] in ("{", "["):
        try:
            json.loads(text.lstrip().partition("\n")[0] if text.lstrip()[:1] == "{" else text)
        except (ValueError, RecursionError):
            return text
        raise CalibrationError(
            f"`{path}` is JSON, yet its name does not end so",
            hint="name it .json, or .jsonl for an object in each line",
        )
    return text


def _lines(path: Path) -> Iterator[tuple[Place, Any]]:
    with _open(path, "\n") as file:  # JSON strings may contain other separators of lines, such as U+2028
        for number, line in enumerate(file, 1):
            if line.strip():
                yield f"`{path}` line {number}", _parsed(line, f"`{path}` line {number}")


def _json(path: Path) -> Iterator[tuple[Place, Any]]:
    with _open(path) as file:
        text = file.read()
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        if text.count("\n") and text.lstrip()[:1] == "{":  # JSON lines are often named .json
            yield from _lines(path)
            return
        value = _parsed(text, f"`{path}`")
    if isinstance(value, dict) and not _is_record(value):
        lists = [key for key, inner in value.items() if isinstance(inner, list)]
        if len(lists) != 1:
            raise CalibrationError(
                f"`{path}` is an object of {', '.join(map(str, value)):.200}; a list of records is needed",
                hint="a .json file is a list, or an object with one list",
            )
        value = value[lists[0]]
    items = value if isinstance(value, list) and not _is_chat(value) else [value]
    for number, item in enumerate(items, 1):
        yield f"`{path}` record {number}", item


def _is_record(value: dict[Any, Any]) -> bool:
    """Whether a JSON object is one record, and not a list of them under some name."""
    lists = [inner for inner in value.values() if isinstance(inner, list)]
    return not lists or any(_is_chat(inner) for inner in lists)


def _is_chat(value: list[Any]) -> bool:
    return bool(value) and isinstance(value[0], dict) and bool(value[0].keys() & {"role", "from"})


def _table(path: Path, delimiter: str) -> Iterator[tuple[Place, Any]]:
    csv.field_size_limit(_LARGEST_FIELD)
    with _open(path, "") as file:
        reader = csv.DictReader(file, delimiter=delimiter)
        try:
            for number, row in enumerate(reader, 1):
                yield f"`{path}` row {number}", {key: value for key, value in row.items() if key is not None}
        except csv.Error as error:
            raise CalibrationError(f"`{path}` is no table: {error}") from error


def _columnar(path: Path, suffix: str) -> Iterator[tuple[Place, Any]]:
    try:
        import pyarrow as pa
        import pyarrow.ipc
        import pyarrow.parquet
    except ModuleNotFoundError as error:
        raise MissingExtraError(error.name or "pyarrow", "data") from error
    number = 0
    try:
        for batch in _batches(pa, path, suffix):
            for row in batch.to_pylist():
                number += 1
                yield f"`{path}` row {number}", row
    except pa.ArrowException as error:
        raise CalibrationError(f"`{path}` is no valid {suffix[1:]} file: {error!s:.200}") from error


def _batches(pa: Any, path: Path, suffix: str) -> Iterator[Any]:
    """The file's record batches. Arrow's two formats, a file's and a stream's, share their endings."""
    if suffix == ".parquet":
        yield from pa.parquet.ParquetFile(path).iter_batches(_BATCH_ROWS)
        return
    with path.open("rb") as file:
        is_file = file.read(6) == b"ARROW1"
    with pa.OSFile(str(path)) as source:
        if is_file:
            reader = pa.ipc.open_file(source)
            yield from (reader.get_batch(number) for number in range(reader.num_record_batches))
        else:
            yield from pa.ipc.open_stream(source)


def _parsed(text: str, where: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise CalibrationError(f"{where} is no JSON: {error!s:.100}") from None
