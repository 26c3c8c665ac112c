"""The text of a growing answer, and the readings that take it.

A reading is a generator: it yields events, and None where it needs more text. What it takes depends on the characters alone, never
on how they were split into pieces. Each character is looked at a bounded number of times.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Generator
from typing import TypeVar

from ovround.runtime.text.tool_formats.answer_event import AnswerEvent

T = TypeVar("T")
Reading = Generator[AnswerEvent | None, None, T]
_SPACE = re.compile(r"\s*")


class Feed:
    """The characters that no reading has taken yet, from `at` on."""

    def __init__(self) -> None:
        self.text, self.at = "", 0
        self.closed = False
        """Whether no more text comes."""
        self.cut = False
        """Whether the answer was cut at its limit of tokens."""
        self._taken: list[str] = []

    def add(self, text: str) -> None:
        """Append what the model has written."""
        self.text, self.at = self.text[self.at :] + text, 0

    def take(self, size: int) -> str:
        """The next characters, which are read now."""
        part = self.text[self.at : self.at + size]
        self.at += len(part)
        self._taken.append(part)
        return part

    def put_back(self, size: int) -> None:
        """Leave the last characters of the last `take` to the next reading."""
        self.at -= size
        self._taken[-1] = self._taken[-1][:-size]

    def begin(self, marker: str = "") -> None:
        """Forget what was taken: a call begins with `marker`."""
        self._taken = [marker]

    def raw(self) -> str:
        """What was taken since `begin`."""
        return "".join(self._taken)


class Markers:
    """Texts to look for; none may be the beginning of another."""

    def __init__(self, *texts: str) -> None:
        ordered = sorted(texts, key=len, reverse=True)
        self._pattern = re.compile("|".join(map(re.escape, ordered)) if texts else r"(?!)")
        self._beginnings = {text[:size] for text in texts for size in range(1, len(text))}
        self._longest = max(map(len, texts), default=1) - 1

    def search(self, feed: Feed) -> re.Match[str] | None:
        """The first marker in the feed."""
        return self._pattern.search(feed.text, feed.at)

    def begun(self, feed: Feed) -> int:
        """Length of the longest end of the feed that may become a marker."""
        length = len(feed.text)
        longest = min(self._longest, length - feed.at)
        return next((size for size in range(longest, 0, -1) if feed.text[length - size :] in self._beginnings), 0)


def more(feed: Feed) -> Reading[bool]:
    """Wait for text; False where the answer has ended."""
    if feed.closed:
        return False
    yield None
    return True


def until(feed: Feed, markers: Markers, emit: Callable[[str], AnswerEvent] | None) -> Reading[str | None]:
    """Give the text before the first marker by `emit`; return the marker, or None at the end.

    An answer that was cut within a marker does not show the marker's beginning.
    """
    while True:
        match = markers.search(feed)
        begun = 0 if match else markers.begun(feed)
        end = match.start() if match else len(feed.text) - (0 if feed.closed else begun)
        if feed.closed and feed.cut:
            end -= begun
        if end > feed.at:
            text = feed.take(end - feed.at)
            if emit is not None:
                yield emit(text)
        if match:
            return feed.take(len(match[0]))
        if not (yield from more(feed)):
            feed.take(len(feed.text) - feed.at)
            return None


def read_until(feed: Feed, *markers: str, limit: int = 200) -> Reading[tuple[str, str] | None]:
    """The short text before the first marker, and the marker; None without one within `limit` characters."""
    wanted = Markers(*markers)
    while True:
        match = wanted.search(feed)
        if match is not None and match.start() - feed.at <= limit:
            text = feed.take(match.start() - feed.at)
            return text, feed.take(len(match[0]))
        if match is not None or len(feed.text) - feed.at - wanted.begun(feed) > limit:
            feed.take(limit)  # the same characters, however they came
            return None
        if not (yield from more(feed)):
            feed.take(limit + max(map(len, markers)))
            return None


def skip_space(feed: Feed) -> Reading[str]:
    """Take white space; the next character, empty at the end."""
    while True:
        match = _SPACE.match(feed.text, feed.at)
        if match is not None and match.end() > feed.at:
            feed.take(match.end() - feed.at)
        if feed.at < len(feed.text):
            return feed.text[feed.at]
        if not (yield from more(feed)):
            return ""


def peek(feed: Feed) -> Reading[str]:
    """The next character, empty at the end."""
    while feed.at >= len(feed.text):
        if not (yield from more(feed)):
            return ""
    return feed.text[feed.at]


def starts(feed: Feed, *texts: str) -> Reading[str | None]:
    """Take the longest of `texts` that the feed begins with; None where it begins with none of them.

    Where the answer was cut within one of them, its beginning is taken.
    """
    while True:
        rest = feed.text[feed.at : feed.at + max(map(len, texts))]
        is_begun = any(len(rest) < len(text) and text.startswith(rest) for text in texts)
        if is_begun and (yield from more(feed)):
            continue
        found = max((text for text in texts if rest.startswith(text)), key=len, default=None)
        if found is None:
            feed.take(len(rest) if is_begun and feed.cut else 0)
            return None
        return feed.take(len(found))


def close_with(feed: Feed, *closers: str) -> Reading[bool]:
    """Take white space and one of the closers if they follow; always True."""
    yield from skip_space(feed)
    yield from starts(feed, *closers)
    feed.begin()
    return True
