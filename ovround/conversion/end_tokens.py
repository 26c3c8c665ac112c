"""The tokens that end an answer, decided once while converting and written down for every engine alike.

Checkpoints name them in up to four places, and engines look into different ones. The union is taken, in transformers' order:
generation_config.json, config.json, the tokenizer's eos_token, and the token that the chat template writes behind an answer, which
fine-tunes of a base model leave out elsewhere. Where no file names one, AutoTokenizer is asked: its classes have defaults.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer

from ovround.checkpoint import read_json
from ovround.errors import CheckpointError, OvroundError
from ovround.runtime.text.chat_template import ChatTemplate, read_template
from ovround.runtime.text.tokenizer_file import special_tokens

GENERATION = "generation_config.json"
_ANSWER = "ovround"  # a word that templates do not write themselves


@dataclass(frozen=True, slots=True)
class EndTokens:
    """Token ids, the first the most usual; `notes` say which of them no configuration file names."""

    ids: tuple[int, ...]
    notes: tuple[str, ...] = ()


def read_end_tokens(folder: Path, tokenizer: Tokenizer, vocab_size: int) -> EndTokens:
    """The end tokens of the checkpoint in `folder`, whose model has `vocab_size` tokens; raises CheckpointError for what is no id."""
    config = _optional(folder / "config.json")
    generation, unread = read_generation(folder)
    stated: list[int] = []
    for name, source in ((GENERATION, generation), ("config.json", config)):
        stated += _ids(source.get("eos_token_id"), folder / name)
    if isinstance(config.get("text_config"), dict):
        stated += _ids(config["text_config"].get("eos_token_id"), folder / "config.json")
    places = dict.fromkeys(stated, "")
    for text, place in (
        (_named(folder), "the tokenizer's files name"),
        (turn_end(folder, tokenizer), "the template writes"),
    ):
        token_id = _id_of(tokenizer, text)
        if token_id is not None:
            places.setdefault(token_id, place)
    ids = {token_id: place for token_id, place in places.items() if 0 <= token_id < vocab_size}
    if not ids:
        token_id = _id_of(tokenizer, _default_of_class(folder))
        if token_id is not None and token_id < vocab_size:
            ids[token_id] = "the tokenizer's class names"
    if not ids:
        return EndTokens((), (*unread, "no file names an end token: answers end at their length"))
    notes = (
        f"answers end at `{tokenizer.id_to_token(token_id)}` ({token_id}), which only {place}"
        for token_id, place in ids.items()
        if place
    )
    return EndTokens(tuple(ids), (*unread, *notes))


def read_generation(folder: Path) -> tuple[dict[str, Any], tuple[str, ...]]:
    """generation_config.json, empty where there is none; one that is damaged is passed over, as transformers does, and said."""
    try:
        return _optional(folder / GENERATION), ()
    except CheckpointError as error:
        return {}, (f"left out: {error}",)


def _id_of(tokenizer: Tokenizer, text: str | None) -> int | None:
    """The id of the token `text`; None without one, and for half a character, which no token is."""
    try:
        token_id: int | None = None if text is None else tokenizer.token_to_id(text)
    except UnicodeEncodeError:
        return None
    return token_id


def turn_end(folder: Path, tokenizer: Tokenizer) -> str | None:
    """The added token that the chat template of `folder` writes behind an answer; None without one."""
    try:
        source = read_template(folder)
        if source is None:
            return None
        chat = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": _ANSWER}]
        text = ChatTemplate(source, special_tokens(folder)).render(chat, add_generation_prompt=False)
    except OvroundError:
        return None  # it is reported when a chat is rendered
    _, answer, behind = text.rpartition(_ANSWER)
    added = sorted((token.content for token in tokenizer.get_added_tokens_decoder().values()), key=len, reverse=True)
    return next((token for token in added if answer and token and behind.lstrip().startswith(token)), None)


def write_end_tokens(folder: Path, ids: Sequence[int]) -> None:
    """State `ids` in generation_config.json of `folder`, the file that every engine reads; it is written where there is none."""
    path = folder / GENERATION
    generation, unread = read_generation(folder)
    if unread:
        path.unlink()
    if not ids or _ids(generation.get("eos_token_id"), path) == [*ids]:
        return
    if not generation:
        config = _optional(folder / "config.json")
        generation = {name: config[name] for name in ("bos_token_id", "pad_token_id") if config.get(name) is not None}
    generation["eos_token_id"] = ids[0] if len(ids) == 1 else [*ids]
    path.write_text(json.dumps(generation, indent=2) + "\n", encoding="utf-8")


def _ids(value: Any, path: Path) -> list[int]:
    """An id or a list of them as a list without repeats; ids below 0 stand for none."""
    ids = value if isinstance(value, list) else [] if value is None else [value]
    if not all(isinstance(token, int) and not isinstance(token, bool) for token in ids):
        raise CheckpointError(f"`{path}`: eos_token_id is {value!r:.60}; a token id or a list of them is needed")
    return list(dict.fromkeys(token for token in ids if token >= 0))


def _named(folder: Path) -> str | None:
    return special_tokens(folder).get("eos_token")


def _default_of_class(folder: Path) -> str | None:
    """The eos_token of the class that AutoTokenizer chooses."""
    from transformers import AutoTokenizer

    from ovround.exporters.tokenizer_source import show_tokenizer

    with tempfile.TemporaryDirectory() as scratch:
        shown = Path(scratch) / "shown"
        show_tokenizer(folder, shown)
        try:
            text = AutoTokenizer.from_pretrained(shown, local_files_only=True, trust_remote_code=False).eos_token
        except Exception:  # noqa: BLE001  tokenizers raises nothing narrower; the exporter reports what it needs itself
            return None
    return text if isinstance(text, str) else None


def _optional(path: Path) -> dict[str, Any]:
    return read_json(path) if path.is_file() else {}
