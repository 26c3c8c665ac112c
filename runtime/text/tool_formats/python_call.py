"""Calls that are written as Python: `[NAME(KEY=VALUE), NAME()]`; values are literals."""

from __future__ import annotations

import ast
import re
from typing import Any

from ovround.runtime.text.tool_formats.answer_event import AnswerEvent, arguments_event
from ovround.runtime.text.tool_formats.feed import Feed, Reading, more, peek, skip_space
from ovround.runtime.text.tool_formats.json_value import to_json
from ovround.runtime.text.tool_formats.tool_format import Tools, call_end

_MAX_DEPTH, _MAX_NAME, _MAX_CHARACTERS = 64, 128, 2**20
_NAME = re.compile(r"[A-Za-z0-9_.\-]+")
_PLAIN = re.compile(r"""[^"'\\()\[\]{}]+""")
_QUOTED = {quote: re.compile(rf"[^{quote}\\]+") for quote in "\"'"}
_CLOSERS = {"(": ")", "[": "]", "{": "}"}
_WORDS = {"true": True, "false": False, "null": None}


def python_calls(feed: Feed, tools: Tools, *, listed: bool = False) -> Reading[bool]:
    """Calls with commas, semicolons or line breaks between them, in brackets or not, `listed` if those have begun.

    `print(...)` around a call is left out.
    """
    if not listed and (yield from skip_space(feed)) == "[":
        listed = True
        feed.take(1)
    count = 0
    while (character := (yield from skip_space(feed))) and _NAME.match(character):
        name = yield from _name(feed)
        printed = name == "print" and name not in tools
        if printed:
            if (yield from peek(feed)) != "(":
                return False
            feed.take(1)
            yield from skip_space(feed)
            name = yield from _name(feed)
        name = name if name in tools else name.removesuffix(".call")
        if name not in tools or not (yield from _call(feed, name)):
            return False
        count += 1
        if printed and (yield from skip_space(feed)) == ")":
            feed.take(1)
        if (character := (yield from skip_space(feed))) and character in ",;":
            feed.take(1)
    if listed:
        if character != "]":
            return count > 0
        feed.take(1)
    if count:
        feed.begin()
    return count > 0


def _name(feed: Feed) -> Reading[str]:
    """A name, dots in it as well; empty where it is too long or not followed by `(`."""
    pieces: list[str] = []
    while True:
        match = _NAME.match(feed.text, feed.at)
        if match is not None:
            pieces.append(feed.take(min(match.end() - feed.at, 1 + _MAX_NAME - sum(map(len, pieces)))))
            if sum(map(len, pieces)) > _MAX_NAME:
                return ""
        if feed.at < len(feed.text):
            return "".join(pieces) if feed.text[feed.at] == "(" else ""
        if not (yield from more(feed)):
            return ""


def _call(feed: Feed, name: str) -> Reading[bool]:
    source = yield from _parentheses(feed)
    if source is None:
        return False
    arguments = _arguments(source)
    if arguments is None:
        return False
    yield AnswerEvent("call", name)
    yield arguments_event(arguments)
    yield call_end(feed)
    return True


def _parentheses(feed: Feed) -> Reading[str | None]:
    """`(...)` with what is inside; None where brackets do not match."""
    pieces: list[str] = []
    open_: list[str] = []
    quote, size = "", 0
    while True:
        character = yield from peek(feed)
        if not character or size > _MAX_CHARACTERS:
            return None
        taken = 1
        if character == "\\":
            while len(feed.text) - feed.at < 2:
                if not (yield from more(feed)):
                    feed.take(1)
                    return None
            taken = 2
        elif quote:
            if character == quote:
                quote = ""
            elif (match := _QUOTED[quote].match(feed.text, feed.at)) is not None:
                taken = match.end() - feed.at
        elif character in _QUOTED:
            quote = character
        elif character in _CLOSERS:
            open_.append(_CLOSERS[character])
        elif character in ")]}":
            if not open_ or open_.pop() != character:
                return None
        elif (match := _PLAIN.match(feed.text, feed.at)) is not None:
            taken = match.end() - feed.at
        if len(open_) > _MAX_DEPTH:
            return None
        taken = min(taken, _MAX_CHARACTERS + 1 - size) if taken > 2 else taken
        pieces.append(feed.take(taken))
        size += taken
        if not open_:
            return "".join(pieces)


def _arguments(source: str) -> str | None:
    """The JSON object of `(KEY=VALUE, ...)`."""
    try:
        call = ast.parse("f" + _escape_breaks(source), mode="eval").body
        if not isinstance(call, ast.Call) or call.args or any(keyword.arg is None for keyword in call.keywords):
            return None
        return to_json({str(keyword.arg): _value(keyword.value) for keyword in call.keywords})
    except (SyntaxError, ValueError, RecursionError, MemoryError, TypeError):
        return None


def _escape_breaks(source: str) -> str:
    """Line breaks inside strings as escapes; Python's quotes hold none."""
    parts = re.split(r"""("(?:[^"\\]|\\.)*"|'(?:[^'\\]|\\.)*')""", source, flags=re.DOTALL)
    return "".join(
        part.replace("\r", "\\r").replace("\n", "\\n") if index % 2 else part for index, part in enumerate(parts)
    )


def _value(node: ast.expr) -> Any:
    match node:
        case ast.Constant(value=str() | int() | float() | None as value):
            return value
        case ast.UnaryOp(op=ast.USub(), operand=ast.Constant(value=int() | float() as number)):
            return -number
        case ast.List(elts=elements) | ast.Tuple(elts=elements):
            return [_value(element) for element in elements]
        case ast.Dict(keys=keys, values=values):
            return {_key(key): _value(value) for key, value in zip(keys, values, strict=True)}
        case ast.Name(id=word) if word in _WORDS:
            return _WORDS[word]
    raise ValueError("not a literal")


def _key(node: ast.expr | None) -> str:
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return node.value
    raise ValueError("a key that is no string")
