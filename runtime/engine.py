"""What every engine gives the generation loop: token ids in, logits out, and a KV cache in between.

An engine holds one loaded model and the cache of one batch. Prompts come ragged, as lists: padding is each engine's own
affair (OpenVINO pads on the left, ONNX Runtime's GroupQueryAttention cannot). It knows nothing about text or sampling.

    engine.prefill([[1, 5, 9], [1, 7]])     logits [2, V]: what follows each prompt
    engine.decode([4, 8])                   logits [2, V]: one more token a row
    engine.keep([1])                        the first row has ended
    engine.decode([3])                      logits [1, V]
    engine.extend([[6, 2]])                 logits [1, 2, V]: two tokens at once, and what follows each
    engine.rewind([4])                      the row is its first four tokens again: 1, 7, 8, 3

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
    """Where it runs, for people: engine, device name, and the hardware's full name."""

    def prefill(self, prompts: Sequence[Sequence[int]]) -> Logits:
        """Append each prompt to its row of the cache; logits `[B, V]` of what follows its last token.

        An empty cache gets a row a prompt. Raises GenerationError for an empty prompt, an id outside the vocabulary, or
        a row that grows beyond `context_length`.
        """
        ...

    def decode(self, ids: Sequence[int]) -> Logits:
        """Append one token to each row: ids `[B]` -> logits `[B, V]`; raises GenerationError as `prefill` does."""
        ...

    def extend(self, rows: Sequence[Sequence[int]]) -> Logits:
        """Append T tokens to each row: ids `[B, T]` -> logits `[B, T, V]`; an empty cache gets a row a list.

        Raises GenerationError as `prefill` does, and for lists of unequal lengths.
        """
        ...

    def rewind(self, lengths: Sequence[int]) -> None:
        """Forget what each row holds beyond its first `lengths[row]` tokens, at least 1."""
        ...

    def keep(self, rows: Sequence[int]) -> None:
        """Go on with these rows of the batch only, in this order; a row named twice is there twice from then on."""
        ...

    def reset(self) -> None:
        """Forget the cache; the next `prefill` starts a new batch."""
        ...

    def logits(self, ids: TokenIds) -> Logits:
        """Logits `[B, T, V]` of every position of `ids` `[B, T]`, for evaluation; the cache stays as it is."""
        ...

    def close(self) -> None:
        """Release the model; safe to call more than once."""
        ...


@runtime_checkable
class GreedyDecoder(Protocol):
    """An engine that feeds its own choices back, so that its device does not wait for the host at every token."""

    def decode_greedy(self, ids: Sequence[int], count: int) -> TokenIds:
        """The `count` likeliest tokens behind each of `ids` `[B]`, int64 `[B, count]`; the last of them is not held yet.

        Raises GenerationError as `Engine.decode` does.
        """
        ...

    def keep(self, rows: Sequence[int]) -> None:
        """As `Engine.keep`."""
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
    """Raise GenerationError unless there is a length for each of the `held` `[B]`, from 1 to what the row holds."""
    if len(lengths) != len(held):
        raise GenerationError(f"{len(lengths)} lengths for a batch of {len(held)}")
    for length, most in zip(lengths, held, strict=True):
        if not 1 <= length <= most:
            raise GenerationError(f"a row of {most} tokens cannot go back to {length}")


def check_room(tokens: int, context_length: int) -> None:
    """Raise GenerationError when a row of `tokens` tokens is longer than the model can hold."""
    if tokens > context_length:
        raise GenerationError(f"{tokens} tokens are more than the model's context of {context_length}")
