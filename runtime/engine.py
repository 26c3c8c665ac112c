"""The interface between the generation loop and an engine: token ids in, logits out, and a KV cache in between.

An engine holds one loaded model and the cache of one batch. Prompts are lists of different lengths; each engine pads in its
own way (OpenVINO on the left, which ONNX Runtime's GroupQueryAttention cannot). It knows nothing about text or sampling.

    engine.prefill([[1, 5, 9], [1, 7]])     logits [2, V] after each prompt
    engine.decode([4, 8])                   logits [2, V] after one more token per row
    engine.keep([1])                        the first row has ended
    engine.decode([3])                      logits [1, V]
    engine.extend([[6, 2]])                 logits [1, 2, V] after each of two more tokens
    engine.rewind([4])                      the row has only its first four tokens: 1, 7, 8, 3

Shapes: B rows of the batch, T tokens, S tokens in the cache, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from ovround.errors import GenerationError

Logits = NDArray[np.float32]
TokenIds = NDArray[np.int64]


class Engine(Protocol):
    """One model on one device. Not thread-safe; methods raise EngineError when the device fails."""

    vocab_size: int
    context_length: int
    device: str
    """Engine, device, and the hardware's full name, in words."""
    kernel: str
    """Whose kernels multiply quantised weights: `native` (the native operator's) or `engine`."""

    def prefill(self, prompts: Sequence[Sequence[int]]) -> Logits:
        """Append each prompt to its row of the cache; returns logits `[B, V]` after its last token.

        An empty cache gets one row per prompt. Raises GenerationError for an empty prompt, an id outside the vocabulary,
        or a row that becomes longer than `context_length`.
        """
        ...

    def decode(self, ids: Sequence[int]) -> Logits:
        """Append one token to each row: ids `[B]` -> logits `[B, V]`; raises GenerationError as `prefill` does."""
        ...

    def extend(self, rows: Sequence[Sequence[int]]) -> Logits:
        """Append T tokens to each row: ids `[B, T]` -> logits `[B, T, V]`; an empty cache gets one row per list.

        Raises GenerationError as `prefill` does, and for lists of different lengths.
        """
        ...

    def rewind(self, lengths: Sequence[int]) -> None:
        """Shorten each row to its first `lengths[row]` tokens, at least 1."""
        ...

    def keep(self, rows: Sequence[int]) -> None:
        """Replace the batch by these rows, in this order; a row may occur more than once."""
        ...

    def reset(self) -> None:
        """Clear the cache; the next `prefill` starts a new batch."""
        ...

    def logits(self, ids: TokenIds) -> Logits:
        """Logits `[B, T, V]` of every position of `ids` `[B, T]`, for evaluation; the cache does not change."""
        ...

    def close(self) -> None:
        """Release the model; further calls have no effect."""
        ...


@runtime_checkable
class GreedyDecoder(Protocol):
    """An engine that chooses tokens itself, so that its device does not wait for the host after every token."""

    def decode_greedy(self, ids: Sequence[int], count: int) -> TokenIds:
        """The `count` greedy tokens after each of `ids` `[B]`, int64 `[B, count]`; the last is not in the cache yet.

        Raises GenerationError as `Engine.decode` does.
        """
        ...

    def keep(self, rows: Sequence[int]) -> None:
        """See `Engine.keep`."""
        ...


def check_ids(rows: Sequence[Sequence[int]] | TokenIds, vocab_size: int) -> None:
    """Raise GenerationError for an empty batch or row, or for an id that the vocabulary does not have."""
    if not len(rows):
        raise GenerationError("the batch has no prompts")
    for row in rows:
        if not len(row):
            raise GenerationError("the prompt has no tokens", hint="give some text, or a beginning-of-text token")
        low, high = int(min(row)), int(max(row))
        if low < 0 or high >= vocab_size:
            raise GenerationError(f"token id {low if low < 0 else high}; the vocabulary has 0 to {vocab_size - 1}")


def check_lengths(lengths: Sequence[int], held: TokenIds) -> None:
    """Raise GenerationError unless each row has a length from 1 to its number of `held` `[B]` tokens."""
    if len(lengths) != len(held):
        raise GenerationError(f"{len(lengths)} lengths for a batch of {len(held)}")
    for length, tokens in zip(lengths, held, strict=True):
        if not 1 <= length <= tokens:
            raise GenerationError(f"a row of {tokens} tokens cannot go back to {length}")


def check_room(tokens: int, context_length: int) -> None:
    """Raise GenerationError when a row of `tokens` tokens is longer than the model can hold."""
    if tokens > context_length:
        raise GenerationError(f"{tokens} tokens are more than the model's context of {context_length}")
