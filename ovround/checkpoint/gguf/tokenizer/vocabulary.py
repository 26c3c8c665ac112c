"""The vocabulary of a GGUF file: `tokenizer.ggml.*` of its metadata, checked.

Lengths, types and token ids come from a stranger's file. Each is compared with what it refers to before anything is built.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import Any

from ovround.errors import CheckpointError

BESIDE = "put config.json, tokenizer.json and tokenizer_config.json of the original model beside the file"
"""The way out of everything that cannot be read."""
_TOKENS = 4 << 20
_CHARACTERS = 1 << 16  # of one token; the longest in use have some hundreds
_LARGEST = 3.5e38  # float32
_ABSENT = (-1, 0xFFFFFFFF)  # written by some converters for "none"
IDS = {
    "bos": "bos_token_id", "eos": "eos_token_id", "eot": "eot_token_id", "eom": "eom_token_id", "unk": "unknown_token_id",
    "sep": "seperator_token_id", "pad": "padding_token_id", "mask": "mask_token_id", "cls": "cls_token_id",
}  # fmt: skip
_DEFAULT_IDS = {  # llama.cpp's, for files that do not state them
    "llama": {"bos": 1, "eos": 2, "unk": 0},
    "bert": {"cls": 101, "unk": 100, "sep": 102, "pad": 0, "mask": 103},
    "t5": {"eos": 1, "unk": 2, "pad": 0},
}


class TokenType(IntEnum):
    """llama.cpp's kinds of tokens."""

    UNDEFINED = 0
    NORMAL = 1
    UNKNOWN = 2
    CONTROL = 3
    USER_DEFINED = 4
    UNUSED = 5
    BYTE = 6


@dataclass(frozen=True, slots=True)
class Vocabulary:
    """`tokens`, `types` and `scores` have one entry an id; `merges` are ordered; `ids` are special tokens by role (`bos`, ...)."""

    model: str
    pre: str | None
    architecture: str
    name: str
    tokens: tuple[str, ...]
    types: tuple[int, ...]
    scores: tuple[float, ...] | None
    merges: tuple[tuple[str, str], ...] | None
    ids: Mapping[str, int]
    flags: Mapping[str, bool]
    charsmap: bytes | None
    typed: bool
    """Whether the file states the types of its tokens."""

    def token(self, role: str) -> str | None:
        """The token of a role such as `bos`; None without one."""
        return self.tokens[self.ids[role]] if role in self.ids else None


def read_vocabulary(metadata: Mapping[str, object]) -> Vocabulary:
    """The vocabulary that `metadata` describes; raises CheckpointError for a missing or contradictory entry."""
    model = _text(metadata, "tokenizer.ggml.model", optional=False)
    tokens = _tokens(metadata)
    types = _numbers(metadata, "token_type", len(tokens))
    scores = _scores(metadata, len(tokens))
    known = {member.value for member in TokenType}
    stated = None if types is None else tuple(kind if kind in known else 0 for kind in types)
    return Vocabulary(
        model=model, pre=_text(metadata, "tokenizer.ggml.pre") or None,
        architecture=_text(metadata, "general.architecture"), name=_text(metadata, "general.name"), tokens=tokens,
        types=stated or (TokenType.NORMAL,) * len(tokens), scores=scores, merges=_merges(metadata),
        ids=_ids(metadata, model, len(tokens)), flags=_flags(metadata), charsmap=_charsmap(metadata), typed=stated is not None,
    )  # fmt: skip


def _text(metadata: Mapping[str, object], key: str, *, optional: bool = True) -> str:
    value = metadata.get(key)
    if value is None and optional:
        return ""
    if value is None:
        raise CheckpointError(f"the GGUF file has no `{key}`", hint=BESIDE)
    if not isinstance(value, str):
        raise CheckpointError(f"`{key}` of the GGUF file is {value!r:.60}; a text is needed", hint=BESIDE)
    return value


def _list(metadata: Mapping[str, object], key: str) -> Sequence[Any] | None:
    value = metadata.get(key)
    if value is None:
        return None
    if hasattr(value, "tolist"):  # an array of numpy
        value = value.tolist()
    if not isinstance(value, Sequence) or isinstance(value, (str, bytes)):
        raise CheckpointError(f"`{key}` of the GGUF file is {value!r:.60}; a list is needed", hint=BESIDE)
    return value


def _texts(values: Iterable[Any], key: str) -> Iterable[str]:
    for index, value in enumerate(values):
        if not isinstance(value, str) or len(value) > _CHARACTERS:
            raise CheckpointError(
                f"entry {index} of `{key}` is {value!r:.60}; a text of at most {_CHARACTERS} characters is needed",
                hint=BESIDE,
            )
        try:
            value.encode()
        except UnicodeEncodeError:
            raise CheckpointError(f"entry {index} of `{key}` is {value!r:.60}, which UTF-8 cannot write") from None
        yield value


def _tokens(metadata: Mapping[str, object]) -> tuple[str, ...]:
    """The tokens by id; an empty one is called [EMPTY_id], as in llama.cpp."""
    key = "tokenizer.ggml.tokens"
    values = _list(metadata, key)
    if not values:
        raise CheckpointError(f"the GGUF file has no `{key}`", hint=BESIDE)
    if len(values) > _TOKENS:
        raise CheckpointError(f"`{key}` has {len(values)} tokens; {_TOKENS} are allowed")
    tokens = tuple(text or f"[EMPTY_{index}]" for index, text in enumerate(_texts(values, key)))
    if len(set(tokens)) < len(tokens):
        seen: dict[str, int] = {}
        for index, token in enumerate(tokens):
            if seen.setdefault(token, index) != index:
                raise CheckpointError(
                    f"`{key}` has the token {token!r:.60} twice, as {seen[token]} and {index}", hint=BESIDE
                )
    return tokens


def _numbers(metadata: Mapping[str, object], name: str, count: int) -> tuple[int, ...] | None:
    key = f"tokenizer.ggml.{name}"
    values = _list(metadata, key)
    if values is None:
        return None
    if len(values) < count:
        raise CheckpointError(f"`{key}` has {len(values)} entries for {count} tokens", hint=BESIDE)
    for index, value in enumerate(values):
        if not isinstance(value, int) or isinstance(value, bool):
            raise CheckpointError(f"entry {index} of `{key}` is {value!r:.60}; a whole number is needed", hint=BESIDE)
    return tuple(values[:count])


def _scores(metadata: Mapping[str, object], count: int) -> tuple[float, ...] | None:
    key = "tokenizer.ggml.scores"
    values = _list(metadata, key)
    if values is None:
        return None
    if len(values) < count:
        raise CheckpointError(f"`{key}` has {len(values)} entries for {count} tokens", hint=BESIDE)
    for index, value in enumerate(values):
        if not isinstance(value, (int, float)) or isinstance(value, bool) or not abs(value) < _LARGEST:
            raise CheckpointError(f"entry {index} of `{key}` is {value!r:.60}; a finite number is needed", hint=BESIDE)
    return tuple(map(float, values[:count]))


def _merges(metadata: Mapping[str, object]) -> tuple[tuple[str, str], ...] | None:
    """The pairs that become one token; a blank, other than at the start, separates the two parts."""
    key = "tokenizer.ggml.merges"
    values = _list(metadata, key)
    if values is None:
        return None
    pairs = []
    for index, text in enumerate(_texts(values, key)):
        at = text.find(" ", 1)
        if at < 0:
            raise CheckpointError(
                f"entry {index} of `{key}` is {text!r:.60}; two parts with a blank are needed", hint=BESIDE
            )
        pairs.append((text[:at], text[at + 1 :]))
    return tuple(pairs)


def _ids(metadata: Mapping[str, object], model: str, count: int) -> dict[str, int]:
    defaults = _DEFAULT_IDS.get(model, {})
    ids = {role: index for role, index in defaults.items() if index < count}
    for role, name in IDS.items():
        key = f"tokenizer.ggml.{name}"
        value = metadata.get(key)
        if value is None or value in _ABSENT:
            continue
        if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value < count:
            raise CheckpointError(f"`{key}` of the GGUF file is {value!r:.60}; there are {count} tokens", hint=BESIDE)
        ids[role] = value
    if model == "bert" and "bos" in ids and metadata.get("tokenizer.ggml.cls_token_id") is None:
        ids["cls"] = ids.pop("bos")  # llama.cpp's name of a classifier token
    return ids


_FLAGS = ("add_bos_token", "add_eos_token", "add_sep_token", "add_space_prefix", "remove_extra_whitespaces")
_NORMALIZER = ("lowercase", "strip_accents")


def _flags(metadata: Mapping[str, object]) -> dict[str, bool]:
    flags = {}
    for name in (*_FLAGS, *(f"normalizer.{name}" for name in _NORMALIZER)):
        value = metadata.get(f"tokenizer.ggml.{name}")
        if value is None:
            continue
        if not isinstance(value, bool):
            raise CheckpointError(f"`tokenizer.ggml.{name}` of the GGUF file is {value!r:.60}; true or false is needed")
        flags[name] = value
    return flags


def _charsmap(metadata: Mapping[str, object]) -> bytes | None:
    key = "tokenizer.ggml.precompiled_charsmap"
    value = metadata.get(key)
    if value is None or isinstance(value, bytes):
        return value or None
    values = _list(metadata, key) or ()
    if not all(isinstance(byte, int) and -128 <= byte <= 255 for byte in values):
        raise CheckpointError(f"`{key}` of the GGUF file is no list of bytes", hint=BESIDE)
    return bytes(byte & 255 for byte in values) or None
