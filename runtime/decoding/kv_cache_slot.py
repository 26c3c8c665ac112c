"""One engine's cache as one row of known tokens; the beginning that a new prompt shares with it is not computed again."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ovround.runtime.decoding.logprobs import TokenLogprobs, token_logprobs
from ovround.runtime.engine import Engine, GreedyDecoder, Logits

_PIECE = 128  # tokens whose logits are held at once: 75 MB for a vocabulary of 150,000


class KVCacheSlot:
    """One row of an engine's cache. After any other use of the engine, call `clear` first."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self.ids: list[int] = []

    def start(self, prompt: Sequence[int]) -> tuple[Logits, int]:
        """Hold exactly `prompt`; returns logits `[V]` after it, and the number of its tokens that were already there."""
        shared = min(_common_prefix(self.ids, prompt), len(prompt) - 1)  # the last token's logits are needed
        if shared < 1:
            self.clear()
            shared = 0
        else:
            self.rewind(shared)
        self.ids.clear()  # an error leaves the engine's cache unknown
        logits = self.engine.prefill([prompt[shared:]])[0]
        self.ids.extend(prompt)
        return logits, shared

    def append(self, ids: Sequence[int]) -> Logits:
        """Append tokens; returns logits `[T, V]` after each of them."""
        held, self.ids = self.ids, []
        # `decode` is the faster way for one token; it needs a row, which an empty cache does not have.
        logits = self.engine.decode(ids) if len(ids) == 1 and held else self.engine.extend([ids])[0]
        held.extend(ids)
        self.ids = held
        return logits

    def append_greedy(self, token: int, count: int) -> list[int]:
        """The `count` tokens that the engine itself chooses after `token`; the last of them is not in the cache yet."""
        if not isinstance(self.engine, GreedyDecoder):
            raise TypeError(f"{self.engine.device} does not choose tokens")
        held, self.ids = self.ids, []
        chosen: list[int] = self.engine.decode_greedy([token], count)[0].tolist()
        held.extend([token, *chosen[:-1]])
        self.ids = held
        return chosen

    def start_scored(self, prompt: Sequence[int], count: int) -> tuple[Logits, tuple[TokenLogprobs, ...]]:
        """`start` with an empty cache, and with the log-probabilities of the tokens after the first."""
        self.clear()
        scored: list[TokenLogprobs] = []
        for start in range(0, len(prompt), _PIECE):
            logits = self.append(prompt[start : start + _PIECE])
            following = prompt[start + 1 : start + 1 + len(logits)]
            scored += [token_logprobs(row, token, count) for row, token in zip(logits, following, strict=False)]
        last: Logits = logits[-1]
        return last, tuple(scored)

    def rewind(self, length: int) -> None:
        """Keep only the first `length` tokens, at least 1."""
        if length < len(self.ids):
            self.engine.rewind([length])
            del self.ids[length:]

    def clear(self) -> None:
        """Drop all tokens."""
        self.ids.clear()
        self.engine.reset()


def _common_prefix(first: Sequence[int], second: Sequence[int]) -> int:
    """Length of the longest common beginning."""
    size = min(len(first), len(second))
    differs = np.flatnonzero(np.asarray(first[:size]) != np.asarray(second[:size]))
    return int(differs[0]) if len(differs) else size
