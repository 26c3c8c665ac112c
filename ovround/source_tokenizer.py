"""The tokenizer of a checkpoint, read as transformers and our runtime read it.

A model is thus tuned and scored on the ids that it will see when it runs. Some files need more than tokenizer.json: see
`ovround.runtime.text.tokenizer_file`. A checkpoint of before that file has a SentencePiece model, vocab.json and merges.txt, or
tiktoken's ranks. transformers makes a tokenizer.json of them.
"""

from __future__ import annotations

import functools
import importlib.util
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path

from tokenizers import Tokenizer

from ovround.errors import ArtifactError, CheckpointError, MissingExtraError
from ovround.exporters.tokenizer_source import show_tokenizer
from ovround.limits import LIMITS
from ovround.runtime.text.chat_template import ChatTemplate, read_template
from ovround.runtime.text.tokenizer_file import load_backend, special_tokens
from ovround.texts import Chat, Render

_ODD = 1000  # so many ids without a row are hardly tokens that somebody added
TOKENIZER, SETTINGS = "tokenizer.json", "tokenizer_config.json"
_BESIDE = ("config.json", SETTINGS, "special_tokens_map.json")
_OLDER = ("*.model", "*.tiktoken", "merges.txt", "vocab.txt")
_SENTENCEPIECE = b"\x0a"  # the first byte of its model, a protobuf; tiktoken's files are text


def load_tokenizer(folder: Path) -> Tokenizer:
    """The fast tokenizer of `folder`; raises CheckpointError when there are no files of one, or damaged ones."""
    try:
        if (folder / TOKENIZER).is_file():
            return load_backend(folder)
        with tempfile.TemporaryDirectory() as scratch:
            for name in _BESIDE:
                if (folder / name).is_file():
                    shutil.copyfile(folder / name, Path(scratch) / name)
            for name, text in converted_files(folder).items():
                (Path(scratch) / name).write_text(text, encoding="utf-8")
            return load_backend(Path(scratch))
    except ArtifactError as error:
        raise CheckpointError(str(error), hint="download it again") from error


def converted_files(folder: Path) -> Mapping[str, str]:
    """What `folder` lacks, by name: tokenizer.json, and tokenizer_config.json; nothing where it has the first.

    Raises MissingExtraError without the library that reads its files, and CheckpointError for files that give no tokenizer.
    """
    if (folder / TOKENIZER).is_file():
        return {}
    older = sorted(path for pattern in _OLDER for path in folder.glob(pattern))
    if not older:
        raise CheckpointError(
            f"`{folder}` has no {TOKENIZER}, and no older tokenizer (tokenizer.model, vocab.json with merges.txt)",
            hint="copy the tokenizer's files of the original model into it",
        )
    for path in older:
        if path.stat().st_size > LIMITS.tokenizer_bytes:
            raise CheckpointError(
                f"`{path}` has {path.stat().st_size} bytes; {LIMITS.tokenizer_bytes} are allowed",
                hint="download it again",
            )
        if path.suffix in (".model", ".tiktoken"):
            _need_library(path)
    state = tuple((path, path.stat().st_mtime_ns) for path in older)
    return _converted(folder, state)


def ids_without_rows(tokenizer: Tokenizer, vocab_size: int) -> tuple[str, ...]:
    """A note where the tokenizer has ids that an embedding of `vocab_size` rows lacks; a prompt with one is an error.

    Published models have some: gemma-3-1b's image token, the [PAD] that a fine-tune added.
    """
    beyond = sorted(
        (key, token) for token, key in tokenizer.get_vocab(with_added_tokens=True).items() if key >= vocab_size
    )
    if not beyond:
        return ()
    key, token = beyond[0]
    names = f"`{token}` ({key})" if len(beyond) == 1 else f"{len(beyond)} tokens from `{token}` ({key}) on"
    note = f"the tokenizer has {names} beyond the {vocab_size} rows of the embedding: a prompt that holds such a token is refused"
    return (note if len(beyond) < _ODD else f"{note}; tokenizer.json may belong to another model",)


def chat_renderer(folder: Path) -> Render | None:
    """What renders a chat by the template of `folder`, as the runtime does; None for a model without a template."""
    source = read_template(folder)
    if source is None:
        return None
    templates: list[ChatTemplate] = []  # its process starts with the first chat

    def render(chat: Chat) -> str:
        if not templates:
            templates.append(ChatTemplate(source, special_tokens(folder)))
        return templates[0].render(chat.messages, add_generation_prompt=False, variables=chat.variables)

    return render


def _need_library(path: Path) -> None:
    with path.open("rb") as file:
        library = "sentencepiece" if file.read(1) == _SENTENCEPIECE else "tiktoken"
    if importlib.util.find_spec(library) is None:
        raise MissingExtraError(library, "convert")


@functools.lru_cache(maxsize=2)  # it is needed to tune, and again to export
def _converted(folder: Path, state: tuple[tuple[Path, int], ...]) -> Mapping[str, str]:
    from transformers import AutoTokenizer

    with tempfile.TemporaryDirectory() as scratch:
        shown, saved = Path(scratch) / "shown", Path(scratch) / "saved"
        show_tokenizer(folder, shown)
        names = ", ".join(path.name for path, _ in state)
        try:
            AutoTokenizer.from_pretrained(shown, local_files_only=True, trust_remote_code=False).save_pretrained(saved)
        except Exception as error:  # each of its libraries raises what it likes
            reason = str(error).strip().partition("\n")[0].replace(scratch, "...")
            raise CheckpointError(
                f"`{folder}`: transformers makes no tokenizer of {names}: {reason or type(error).__name__}",
                hint="download them again, or copy tokenizer.json of the original model beside them",
            ) from error
        if not (saved / TOKENIZER).is_file():
            raise CheckpointError(
                f"`{folder}`: the tokenizer of {names} is a Python program of transformers, without a {TOKENIZER}",
                hint="copy tokenizer.json of a model with the same tokenizer beside them",
            )
        wanted = [TOKENIZER, *([] if (folder / SETTINGS).is_file() else [SETTINGS])]
        return {name: (saved / name).read_text(encoding="utf-8") for name in wanted if (saved / name).is_file()}
