"""The documents of a text source: plain texts as they are, chats as the model's own template renders them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from ovround.errors import CalibrationError, OvroundError
from ovround.texts.data_set import TO_TUNE, data_set_files, is_data_set
from ovround.texts.files import records
from ovround.texts.records import Chat, meaning

Render = Callable[[Chat], str]
"""A chat as the text that the model sees; raises OvroundError for a model without a template, or one that refuses the chat."""


@dataclass(frozen=True, slots=True)
class Document:
    """One text; one that is `rendered` from a chat has its special tokens already."""

    text: str
    rendered: bool = False


def read_documents(source: Path, render: Render | None = None, splits: Sequence[str] = TO_TUNE) -> Iterator[Document]:
    """The documents of a file, or of a data set of the hub (`org/name`, `org/name:config`), whose files are fetched one by one: of
    the first of `splits` that it has.

    Raises CalibrationError for what is not understood; it names the line, and the keys that are there.
    """
    files = data_set_files(source.as_posix(), splits) if is_data_set(source) else iter([source])
    for file in files:
        for where, record in records(file):
            found = record if _is_whole_text(file, record) else meaning(record, where)
            yield _rendered(found, where, render) if isinstance(found, Chat) else Document(str(found))


def _is_whole_text(file: Path, record: object) -> bool:
    return isinstance(record, str) and file.suffix.lower() in ("", ".txt", ".text", ".md")


def _rendered(chat: Chat, where: str, render: Render | None) -> Document:
    if render is None:
        raise CalibrationError(
            f"{where} is a chat, and the model has no chat template",
            hint="give plain text, such as lines with `text`, or a model that was made for chats",
        )
    try:
        return Document(render(chat), rendered=True)
    except CalibrationError:
        raise
    except OvroundError as error:
        raise CalibrationError(f"{where}: {error}", hint=error.hint) from error
