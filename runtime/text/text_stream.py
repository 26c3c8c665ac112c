"""The text of a stream of tokens: only complete characters, and no part of a stop string."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

_INCOMPLETE = "\ufffd"  # decoders write it for invalid or incomplete characters


class Decodes(Protocol):
    """The methods of a tokenizer that this module needs."""

    def decode(self, ids: Sequence[int]) -> str: ...

    def is_special(self, token_id: int) -> bool: ...

    def is_byte(self, token_id: int) -> bool: ...


class StreamDecoder:
    """Token ids in, text out; all pieces together equal `decode` of all ids.

    A piece is the growth of the text of the last few tokens. Two things are held back: an incomplete character at the
    end, and a run of byte tokens (`<0xE2>`), because one wrong byte at its end changes the text of the whole run.
    `shown` are special tokens that are part of the text, with what they are in it.
    """

    def __init__(self, tokenizer: Decodes, shown: Mapping[int, str] | None = None) -> None:
        self._tokenizer = tokenizer
        self._shown = shown or {}
        self._recent: list[int] = []
        self._given = 0  # number of recent tokens whose text was returned
        self._in_bytes = False

    def push(self, token_id: int) -> str:
        """The text that this token completes, often none."""
        if token_id in self._shown:
            text = self.finish() + self._shown[token_id]
            self._recent, self._given = [], 0
            return text
        self._recent.append(token_id)
        if self._tokenizer.is_special(token_id):
            return ""
        self._in_bytes = self._tokenizer.is_byte(token_id)
        return "" if self._in_bytes else self._take(last=False)

    def finish(self) -> str:
        """The text that was held back."""
        return self._take(last=True)

    def _take(self, *, last: bool) -> str:
        before = self._tokenizer.decode(self._recent[: self._given])
        after = self._tokenizer.decode(self._recent)
        if len(after) <= len(before) or (not last and after.endswith(_INCOMPLETE)):
            return ""
        self._recent = self._recent[self._given :]
        self._given = len(self._recent)
        return after[len(before) :]


class StopStrings:
    """Cuts a text before the first complete string of `stops`, and holds back a possible beginning of one.

    If several end at the same character, the longest counts; the cut then does not depend on how the text is split.
    """

    def __init__(self, stops: Sequence[str]) -> None:
        self._stops = tuple(stops)
        self._held = ""
        self.found: str | None = None
        """The stop string that ended the text."""

    def push(self, text: str) -> str:
        """The text that certainly precedes every stop string; empty once one was found."""
        if self.found is not None or not self._stops:
            return "" if self.found is not None else text
        self._held += text
        matches = [(start + len(stop), start) for stop in self._stops if (start := self._held.find(stop)) >= 0]
        if matches:
            end, start = min(matches)
            self.found = self._held[start:end]
            return self._held[:start]
        keep = max(_overlap(self._held, stop) for stop in self._stops)
        certain, self._held = self._held[: len(self._held) - keep], self._held[len(self._held) - keep :]
        return certain

    def finish(self) -> str:
        """The text that was held back, unless a stop string was found."""
        return "" if self.found is not None else self._held


class TextStream:
    """The text of one answer: `StreamDecoder`, then `StopStrings`."""

    def __init__(self, tokenizer: Decodes, stops: Sequence[str], shown: Mapping[int, str] | None = None) -> None:
        self._decoder = StreamDecoder(tokenizer, shown)
        self._stops = StopStrings(stops)

    @property
    def stop_string(self) -> str | None:
        """The stop string that was found, which ends the answer."""
        return self._stops.found

    def push(self, token_id: int) -> str:
        return self._stops.push(self._decoder.push(token_id))

    def finish(self) -> str:
        return self._stops.push(self._decoder.finish()) + self._stops.finish()


def _overlap(text: str, stop: str) -> int:
    """Length of the longest end of `text` that is a beginning of `stop`."""
    longest = min(len(text), len(stop) - 1)
    return next((size for size in range(longest, 0, -1) if text.endswith(stop[:size])), 0)
