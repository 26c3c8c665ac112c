"""The small files of a checkpoint as the exporters find them: the source's own, with what the conversion decided written in."""

from __future__ import annotations

import codecs
import contextlib
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

from ovround.checkpoint.files.small_files import model_files
from ovround.conversion.end_tokens import write_end_tokens
from ovround.errors import OvroundError
from ovround.source_tokenizer import converted_files


@contextlib.contextmanager
def staged(source: Path, end_token_ids: Sequence[int]) -> Iterator[Path]:
    """A folder with copies of the model files of `source`, a tokenizer.json, and `end_token_ids` in generation_config.json."""
    with tempfile.TemporaryDirectory(prefix="ovround-") as scratch:
        folder = Path(scratch)
        for name in model_files(source):
            (folder / name).parent.mkdir(exist_ok=True)
            (folder / name).write_bytes((source / name).read_bytes().removeprefix(codecs.BOM_UTF8))
        for name, text in converted_files(source).items():
            (folder / name).write_text(text, encoding="utf-8")
        write_end_tokens(folder, end_token_ids)
        try:
            yield folder
        except OvroundError as error:  # the user knows the files by the place where they lie
            error.args = (str(error).replace(scratch, str(source)),)
            raise
