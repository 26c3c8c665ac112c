"""Calls that are JSON objects: `{"name": ..., "arguments": {...}}`, one, several, or a list of them."""

from __future__ import annotations

from ovround.runtime.text.tool_formats.answer_event import AnswerEvent, arguments_event
from ovround.runtime.text.tool_formats.feed import Feed, Reading, skip_space, starts
from ovround.runtime.text.tool_formats.json_value import is_json, json_string, json_value
from ovround.runtime.text.tool_formats.tool_format import Reader, Tools, call_end

_ARGUMENTS = ("arguments", "parameters", "args", "input")
_KEYS = ("name", "id", "type", "index", "function", *_ARGUMENTS)


def json_arguments(feed: Feed, name: str) -> Reading[bool]:
    """A call of `name` whose arguments are the object at the feed's beginning."""
    yield AnswerEvent("call", name)
    if (yield from skip_space(feed)) != "{" or (yield from json_value(feed, arguments_event)) is None:
        return False
    yield call_end(feed)
    return True


def json_calls(feed: Feed, tools: Tools, *, listed: bool = False) -> Reading[bool]:
    """Objects one after the other, with commas, semicolons or nothing between them, or one list, `listed` if it has begun."""
    character = yield from skip_space(feed)
    if character == "[" and not listed:
        listed = True
        feed.take(1)
        character = yield from skip_space(feed)
    count = 0
    while character == "{":
        if not (yield from json_call(feed, tools)):
            return False
        count += 1
        character = yield from skip_space(feed)
        if character and character in ",;":
            feed.take(1)
            character = yield from skip_space(feed)
    if listed and character == "]":
        feed.take(1)
    if count:
        feed.begin()
    return count > 0


def json_calls_before(*closers: str) -> Reader:
    """The reader of `json_calls` and of a closing marker after them."""

    def read(feed: Feed, tools: Tools) -> Reading[bool]:
        if not (yield from json_calls(feed, tools)):
            return False
        yield from starts(feed, *closers)
        feed.begin()
        return True

    return read


def json_call(feed: Feed, tools: Tools) -> Reading[bool]:
    """One object of a call; arguments that follow the name are given piece by piece."""
    name, arguments, begun = None, "{}", False
    feed.take(1)
    while True:
        character = yield from skip_space(feed)
        if character == ",":
            feed.take(1)
            continue
        if character == "}":
            feed.take(1)
            break
        key = yield from json_string(feed)
        if key not in _KEYS or (yield from skip_space(feed)) != ":":
            return False
        feed.take(1)
        character = yield from skip_space(feed)
        if key == "function" and character == "{":  # OpenAI's own object around the call
            if not (yield from json_call(feed, tools)):
                return False
            return (yield from _rest(feed))
        if key == "name" or (key == "function" and character == '"'):
            name = yield from json_string(feed)
            if name is None or name not in tools or begun:
                return False
        elif key in _ARGUMENTS and name is not None and character == "{" and not begun:
            begun = True
            yield AnswerEvent("call", name)
            if (yield from json_value(feed, arguments_event)) is None:
                return False
        else:
            value = yield from (json_string(feed) if key in _ARGUMENTS and character == '"' else json_value(feed))
            if value is None:
                return False
            if key in _ARGUMENTS and value not in ("null", ""):
                arguments = value
    if name is None or not (begun or (arguments.lstrip().startswith("{") and is_json(arguments))):
        return False
    if not begun:
        yield AnswerEvent("call", name)
        yield arguments_event(arguments)
    yield call_end(feed)
    return True


def _rest(feed: Feed) -> Reading[bool]:
    """What follows the call inside the object around it."""
    while True:
        character = yield from skip_space(feed)
        if character == "}":
            feed.take(1)
            feed.begin()
            return True
        if character and character in ",:":
            feed.take(1)
        elif (yield from json_value(feed)) is None:
            return False
