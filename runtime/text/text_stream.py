"""Text as it grows, token by token: only complete characters, and never a part of a stop string."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

_INCOMPLETE = "\ufffd"  # how decoders write bytes that are no character, or not yet


class Decodes(Protocol):
    """What of a tokenizer is needed here."""

    def decode(self, ids: Sequence[int]) -> str: ...

    def is_special(self, token_id: int) -> bool: ...

    def is_byte(self, token_id: int) -> bool: ...


class StreamDecoder:
    """Token ids in, text out; all pieces together are exactly `decode` of all ids.

    A piece is what the text of a short window of tokens gained. Held back: an unfinished character at the end, and a
    run of byte tokens (`<0xE2>`), because one wrong byte at its end changes how the whole run is written.
    """

    def __init__(self, tokenizer: Decodes) -> None:
        self._tokenizer = tokenizer
        self._window: list[int] = []
        self._given = 0  # tokens of the window whose text is out
        self._in_bytes = False

    def push(self, token_id: int) -> str:
        """The text that this token completes, often none."""
        self._window.append(token_id)
        if self._tokenizer.is_special(token_id):
            return ""
        self._in_bytes = self._tokenizer.is_byte(token_id)
        return "" if self._in_bytes else self._take(last=False)

    def finish(self) -> str:
        """What was held back, as it is."""
        return self._take(last=True)

    def _take(self, *, last: bool) -> str:
        before = self._tokenizer.decode(self._window[: self._given])
        after = self._tokenizer.decode(self._window)
        if len(after) <= len(before) or (not last and after.endswith(_INCOMPLETE)):
            return ""
        self._window = self._window[self._given :]
        self._given = len(self._window)
        return after[len(before) :]


class StopStrings:
    """Cuts a text before the one of `stops` that is complete first, holding back what may become one.

    Of several that end at the same character the longest counts, so the cut does not depend on how the text is split.
    """

    def __init__(self, stops: Sequence[str]) -> None:
        self._stops = tuple(stops)
        self._held = ""
        self.found = False

    def push(self, text: str) -> str:
        """The text that is certain to come before any stop string; nothing more once `found`."""
        if self.found or not self._stops:
            return "" if self.found else text
        self._held += text
        found = [(place + len(stop), place) for stop in self._stops if (place := self._held.find(stop)) >= 0]
        if found:
            self.found = True
            return self._held[: min(found)[1]]
        keep = max(_overlap(self._held, stop) for stop in self._stops)
        sure, self._held = self._held[: len(self._held) - keep], self._held[len(self._held) - keep :]
        return sure

    def finish(self) -> str:
        """What was held back and became no stop string."""
        return "" if self.found else self._held


class TextStream:
    """The text of one answer: `StreamDecoder`, then `StopStrings`."""

    def __init__(self, tokenizer: Decodes, stops: Sequence[str]) -> None:
        self._decoder = StreamDecoder(tokenizer)
        self._stops = StopStrings(stops)

    @property
    def stopped(self) -> bool:
        """Whether a stop string was met: the answer ends there."""
        return self._stops.found

    def push(self, token_id: int) -> str:
        return self._stops.push(self._decoder.push(token_id))

    def finish(self) -> str:
        return self._stops.push(self._decoder.finish()) + self._stops.finish()


def _overlap(text: str, stop: str) -> int:
    """Length of the longest end of `text` that is a beginning of `stop`."""
    longest = min(len(text), len(stop) - 1)
    return next((size for size in range(longest, 0, -1) if text.endswith(stop[:size])), 0)
