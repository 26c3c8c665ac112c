"""The errors of a request's fields in the client's words: the field's path in its body, the value, and what is allowed."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

_SHOULD = "Input should be "


def describe(errors: Sequence[Any], body: Any) -> tuple[str, str | None]:
    """Message and `param` for pydantic's errors about `body`; of several errors the deepest of the first field."""
    if errors[0]["type"] == "json_invalid":
        reason = errors[0].get("ctx", {}).get("error", "it cannot be parsed")
        return f"the body is not valid JSON: {reason} (character {errors[0]['loc'][-1]})", None
    located = [(_path(error, body), error) for error in errors]
    first = located[0][0][:1]
    located = [(path, error) for path, error in located if path[:1] == first]
    deepest = max((path for path, _ in located), key=len)
    return _message(deepest, [error for path, error in located if path == deepest], body)


def _message(path: list[str | int], errors: Sequence[Any], body: Any) -> tuple[str, str | None]:
    error = errors[0]
    param = _written(path)
    if error["type"] == "union_tag_invalid":
        context = error["ctx"]
        reads = "; the model reads text only" if "content" in path else ""
        return f"`{param}` is {json.dumps(context['tag'])[:100]}; allowed: {context['expected_tags']}{reads}", param
    if error["type"] in ("missing", "union_tag_not_found"):
        return (f"`{param}` is missing" if param else "the body is missing"), param
    if error["type"] == "value_error":
        text = error["msg"].removeprefix("Value error, ")
        named = text.split()[0]
        return text, param or (named if isinstance(body, dict) and named in body else None)
    wanted = list(dict.fromkeys(error["msg"].removeprefix(_SHOULD) for error in errors))
    if not error["msg"].startswith(_SHOULD):
        return (f"`{param}`: {error['msg']}" if param else error["msg"]), param
    return f"`{param or 'the body'}` is {_shown(error['input'])}; it should be {' or '.join(wanted)}", param


def _path(error: Any, body: Any) -> list[str | int]:
    """The parts of an error's location that are in the body; pydantic's names of union members are not."""
    path: list[str | int] = []
    at = body
    parts = [part for part in error["loc"] if part != "body"]
    for index, part in enumerate(parts):
        inside = (isinstance(at, dict) and part in at) or (
            isinstance(at, list) and isinstance(part, int) and part < len(at)
        )
        if inside:
            path.append(part)
            at = at[part]
        elif error["type"] == "missing" and index == len(parts) - 1:
            path.append(part)
    return [*path, "type"] if error["type"] in ("union_tag_invalid", "union_tag_not_found") else path


def _written(path: Sequence[str | int]) -> str | None:
    """`messages[0].content`; None for the body itself."""
    text = "".join(f"[{part}]" if isinstance(part, int) else f".{part[:100]}" for part in path)
    return text.removeprefix(".") or None


def _shown(value: Any) -> str:
    if isinstance(value, dict):
        return "an object"
    if isinstance(value, list):
        return "a list" if value else "an empty list"
    return json.dumps(value[:60] if isinstance(value, str) else value, ensure_ascii=True, default=str)
