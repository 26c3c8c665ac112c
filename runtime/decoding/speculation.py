"""Speculative decoding: cheap guesses at the next tokens, which the model then judges all in one step.

A guess stands when the model, choosing as it always does, chooses the same token. So the answer is what it would be
without guesses, greedy or drawn from a seed: guesses change how long it takes, nothing else.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from ovround.runtime.decoding.kv_cache_slot import KVCacheSlot

DRAFT_TOKENS = 5
_LONGEST, _SHORTEST = 3, 1  # tokens at the end of the text that are looked for


class Proposer(Protocol):
    """Guesses what follows."""

    def propose(self, ids: Sequence[int], count: int) -> list[int]:
        """At most `count` tokens that may follow `ids`, prompt and answer so far; none is an answer too."""
        ...


class PromptLookup:
    """What followed the last time that the text ended like this (Saxena, 2023: prompt lookup decoding)."""

    def propose(self, ids: Sequence[int], count: int) -> list[int]:
        text = list(ids)
        for size in range(min(_LONGEST, len(text) - 1), _SHORTEST - 1, -1):
            tail = text[-size:]
            for place in range(len(text) - size - 1, -1, -1):
                if text[place] == tail[0] and text[place : place + size] == tail:
                    return text[place + size : place + size + count]
        return []


class DraftModel:
    """A smaller model with the same tokenizer, greedy (Leviathan et al., 2023)."""

    def __init__(self, row: KVCacheSlot, vocab_size: int) -> None:
        self._row = row
        self._vocab_size = vocab_size

    def propose(self, ids: Sequence[int], count: int) -> list[int]:
        room = self._row.engine.context_length - len(ids) + 1  # the last guess is never put into the cache
        guesses: list[int] = []
        if min(count, room) < 1:
            return guesses
        logits, _ = self._row.start(ids)
        while True:
            guesses.append(int(logits[: self._vocab_size].argmax()))
            if len(guesses) == min(count, room):
                return guesses
            logits = self._row.append(guesses[-1:])[0]
