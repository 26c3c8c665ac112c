"""Windows of tokens as a model meets a text: each begins with what the tokenizer puts before one, such as BOS."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer

from ovround.errors import CalibrationError


@dataclass(frozen=True, slots=True)
class Prefix:
    """What a tokenizer puts before every text: token ids, and the same as `tokens`; both empty for one that puts nothing."""

    ids: tuple[int, ...] = ()
    tokens: tuple[str, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.ids)


NO_PREFIX = Prefix()


def text_prefix(tokenizer: Tokenizer) -> Prefix:
    """The tokens that `tokenizer` puts before a text, asked of itself; what it appends (EOS) is not among them."""
    for token_id in range(
        tokenizer.get_vocab_size()
    ):  # any text will do that has a token; the first one nearly always has
        encoding = tokenizer.encode(tokenizer.id_to_token(token_id) or "")
        if 0 in encoding.special_tokens_mask:
            count = encoding.special_tokens_mask.index(0)
            return Prefix(tuple(encoding.ids[:count]), tuple(encoding.tokens[:count]))
    return NO_PREFIX


def cut_windows(tokens: NDArray[np.int64], length: int, prefix: Prefix) -> NDArray[np.int64]:
    """Cut tokens `[n]` into windows `[W, length]` that begin with `prefix`; the remainder is dropped.

    Each takes up the text where the one before it ends. Where the text has the prefix there, as at the start of a document,
    it is not put there twice. Raises CalibrationError where the prefix leaves no room for text.
    """
    if not prefix:
        count = len(tokens) // length
        return tokens[: count * length].reshape(count, length)
    added = np.asarray(prefix.ids, np.int64)
    if length <= len(added):
        raise CalibrationError(
            f"windows of {length} tokens have no room for text: the tokenizer puts {len(added)} before each",
            hint=f"at least {len(added) + 1} tokens",
        )
    windows, start = [], 0
    while True:
        own = added[: 0 if np.array_equal(tokens[start : start + len(added)], added) else None]
        end = start + length - len(own)
        if end > len(tokens):
            break
        windows.append(np.concatenate([own, tokens[start:end]]))
        start = end
    return np.stack(windows) if windows else np.zeros((0, length), np.int64)


def scored(following: NDArray[np.int64], prefix: Prefix) -> NDArray[np.bool_]:
    """Which of the tokens `following` count when predictions are scored: all but those of the prefix, which no model predicts."""
    return ~np.isin(following, prefix.ids)
