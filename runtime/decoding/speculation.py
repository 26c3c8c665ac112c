"""Speculative decoding: a cheap proposal of the next tokens, which the model verifies in one step.

A proposed token is accepted when the model chooses the same token. The answer is therefore the same as without proposals,
both greedy and with a seed; only the time changes.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from ovround.runtime.decoding.kv_cache_slot import KVCacheSlot

DRAFT_TOKENS = 5
_LONGEST, _SHORTEST = 3, 1  # tokens at the end of the text that are searched for


class Proposer(Protocol):
    """A source of proposed tokens."""

    def propose(self, ids: Sequence[int], count: int) -> list[int]:
        """At most `count` tokens that may follow `ids`, the prompt and answer so far; possibly none."""
        ...


class PromptLookup:
    """The tokens that followed the last earlier occurrence of the text's end (Saxena, 2023: prompt lookup decoding)."""

    def propose(self, ids: Sequence[int], count: int) -> list[int]:
        text = list(ids)
        for size in range(min(_LONGEST, len(text) - 1), _SHORTEST - 1, -1):
            tail = text[-size:]
            for start in range(len(text) - size - 1, -1, -1):
                if text[start] == tail[0] and text[start : start + size] == tail:
                    return text[start + size : start + size + count]
        return []


class DraftModel:
    """Greedy proposals of a smaller model with the same tokenizer (Leviathan et al., 2023)."""

    def __init__(self, row: KVCacheSlot, vocab_size: int) -> None:
        self._row = row
        self._vocab_size = vocab_size

    def propose(self, ids: Sequence[int], count: int) -> list[int]:
        room = self._row.engine.context_length - len(ids) + 1  # the last proposed token is never put into the cache
        proposed: list[int] = []
        if min(count, room) < 1:
            return proposed
        logits, _ = self._row.start(ids)
        while True:
            proposed.append(int(logits[: self._vocab_size].argmax()))
            if len(proposed) == min(count, room):
                return proposed
            logits = self._row.append(proposed[-1:])[0]
