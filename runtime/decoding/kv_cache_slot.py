"""One engine's cache as one row of known tokens: what a new prompt shares with it need not be computed again."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ovround.runtime.decoding.logprobs import TokenLogprobs, token_logprobs
from ovround.runtime.engine import Engine, GreedyDecoder, Logits

_PIECE = 128  # tokens whose logits are held at once: 75 MB for a vocabulary of 150,000


class KVCacheSlot:
    """The only user of its engine's cache as long as it is used; `clear` after anybody else was there."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self.ids: list[int] = []

    def start(self, prompt: Sequence[int]) -> tuple[Logits, int]:
        """Hold exactly `prompt`: logits `[V]` of what follows, and how many of its tokens were there already."""
        shared = min(_common(self.ids, prompt), len(prompt) - 1)  # the last token's logits are needed
        if shared < 1:
            self.clear()
            shared = 0
        else:
            self.rewind(shared)
        self.ids.clear()  # until the engine has done its part: after an error nothing is known of its cache
        logits = self.engine.prefill([prompt[shared:]])[0]
        self.ids.extend(prompt)
        return logits, shared

    def append(self, ids: Sequence[int]) -> Logits:
        """Logits `[T, V]` of what follows each of the new tokens."""
        held, self.ids = self.ids, []
        # Of several tokens at once all logits are needed, of one alone the engine has a shorter way; an empty cache has
        # no row yet that `decode` could go on with.
        logits = self.engine.decode(ids) if len(ids) == 1 and held else self.engine.extend([ids])[0]
        held.extend(ids)
        self.ids = held
        return logits

    def append_greedy(self, token: int, count: int) -> list[int]:
        """The `count` likeliest tokens behind `token`, as the engine chooses them itself; the last is not held yet."""
        if not isinstance(self.engine, GreedyDecoder):
            raise TypeError(f"{self.engine.device} does not choose tokens")
        held, self.ids = self.ids, []
        chosen: list[int] = self.engine.decode_greedy([token], count)[0].tolist()
        held.extend([token, *chosen[:-1]])
        self.ids = held
        return chosen

    def start_scored(self, prompt: Sequence[int], count: int) -> tuple[Logits, tuple[TokenLogprobs, ...]]:
        """`start` from an empty cache, with the log-probabilities of the tokens after the first."""
        self.clear()
        found: list[TokenLogprobs] = []
        for start in range(0, len(prompt), _PIECE):
            logits = self.append(prompt[start : start + _PIECE])
            following = prompt[start + 1 : start + 1 + len(logits)]
            found += [token_logprobs(row, token, count) for row, token in zip(logits, following, strict=False)]
        last: Logits = logits[-1]
        return last, tuple(found)

    def rewind(self, length: int) -> None:
        """Hold the first `length` tokens only, at least 1."""
        if length < len(self.ids):
            self.engine.rewind([length])
            del self.ids[length:]

    def clear(self) -> None:
        """Forget everything."""
        self.ids.clear()
        self.engine.reset()


def _common(ours: Sequence[int], theirs: Sequence[int]) -> int:
    """Tokens that both begin with."""
    size = min(len(ours), len(theirs))
    differs = np.flatnonzero(np.asarray(ours[:size]) != np.asarray(theirs[:size]))
    return int(differs[0]) if len(differs) else size
