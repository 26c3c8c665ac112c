"""JSON values read as they come: their text, checked, with line breaks inside strings escaped."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import Any

from ovround.runtime.text.tool_formats.answer_event import AnswerEvent
from ovround.runtime.text.tool_formats.feed import Feed, Reading, more, peek

_MAX_DEPTH = 100
_IN_STRING = re.compile(r'[^"\\\x00-\x1f]+')
_IN_CONTAINER = re.compile(r"[-+.0-9eEtrufalsn,:\s]+")
_SCALAR = re.compile(r"[-+.0-9eEtrufalsn]+")
_CLOSERS = {"{": "}", "[": "]"}
Emit = Callable[[str], AnswerEvent]


def json_value(feed: Feed, emit: Emit | None = None) -> Reading[str | None]:
    """The text of the value that the feed begins with; None where it is none, or not complete. `emit` gets each piece."""
    pieces: list[str] = []
    open_: list[str] = []
    while True:
        character = yield from peek(feed)
        if not character and (open_ or not pieces):
            return None
        if character == '"':
            text = yield from _string(feed, emit)
            if text is None:
                return None
            pieces.append(text)
        elif character in _CLOSERS and (open_ or not pieces):
            open_.append(_CLOSERS[character])
            if len(open_) > _MAX_DEPTH:
                return None
            yield from _piece(feed, 1, pieces, emit)
        elif open_ and character == open_[-1]:
            open_.pop()
            yield from _piece(feed, 1, pieces, emit)
        else:
            match = (_IN_CONTAINER if open_ else _SCALAR).match(feed.text, feed.at)
            if match is not None:
                yield from _piece(feed, match.end() - feed.at, pieces, emit)
                if not feed.closed or open_ or feed.at < len(feed.text):
                    continue
            elif open_ or not pieces:
                return None
            break
        if not open_:
            break
    text = "".join(pieces)
    return text if is_json(text) else None


def json_string(feed: Feed) -> Reading[str | None]:
    """The characters of the string that the feed begins with; None where it is none, or not complete."""
    if (yield from peek(feed)) != '"':
        return None
    text = yield from _string(feed, None)
    if text is None or not is_json(text):
        return None
    value = json.loads(text)
    return value if _is_unicode(value) else None


def is_json(text: str) -> bool:
    """Whether `text` is strict JSON."""
    try:
        json.loads(text, parse_constant=_refuse)
    except (ValueError, RecursionError):
        return False
    return True


def to_json(value: Any) -> str:
    """The JSON text of a value; raises ValueError for numbers that JSON does not have."""
    text = json.dumps(value, ensure_ascii=False, allow_nan=False)
    return text if _is_unicode(text) else json.dumps(value, allow_nan=False)


def _refuse(name: str) -> Any:
    raise ValueError(name)


def _is_unicode(text: str) -> bool:
    return not any("\ud800" <= character <= "\udfff" for character in text) if not text.isascii() else True


def _piece(feed: Feed, size: int, pieces: list[str], emit: Emit | None) -> Reading[None]:
    text = feed.take(size)
    pieces.append(text)
    if emit is not None:
        yield emit(text)


def _string(feed: Feed, emit: Emit | None) -> Reading[str | None]:
    """The text of a string with its quotes, at its opening one."""
    pieces: list[str] = []
    yield from _piece(feed, 1, pieces, emit)
    while True:
        character = yield from peek(feed)
        if not character:
            return None
        if character == "\\":
            while len(feed.text) - feed.at < 2:
                if not (yield from more(feed)):
                    feed.take(1)
                    return None
            yield from _piece(feed, 2, pieces, emit)
        elif character < " ":
            text = json.dumps(feed.take(1))[1:-1]
            pieces.append(text)
            if emit is not None:
                yield emit(text)
        elif character == '"':
            yield from _piece(feed, 1, pieces, emit)
            return "".join(pieces)
        else:
            match = _IN_STRING.match(feed.text, feed.at)
            yield from _piece(feed, match.end() - feed.at if match else 1, pieces, emit)
