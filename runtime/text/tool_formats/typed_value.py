"""Parameters that are written as plain text between tags: their JSON values by the tool's schema."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from ovround.runtime.text.tool_formats.answer_event import AnswerEvent, arguments_event
from ovround.runtime.text.tool_formats.feed import Feed, Markers, Reading, until
from ovround.runtime.text.tool_formats.json_value import is_json, to_json

_TYPES: dict[str, type | tuple[type, ...]] = {
    "string": str, "integer": int, "number": (int, float), "boolean": bool, "array": list, "object": dict,
    "null": type(None),
}  # fmt: skip


def typed_json(text: str, types: frozenset[str]) -> str:
    """The JSON of a parameter; text that is no value of the schema's types stays a string. No types: any value but a string."""
    stripped = text.strip()
    if types - {"string", "null"} or not types or ("null" in types and stripped == "null"):
        spelled = {"True": "true", "False": "false", "None": "null"}.get(stripped, stripped)
        if is_json(spelled):
            value = json.loads(spelled)
            allowed = tuple(_TYPES[name] for name in types) if types else ()
            if not isinstance(value, str) and (not types or _has_type(value, allowed)):
                return to_json(value)
    return to_json(text)


def parameter_types(schema: Mapping[str, Any], name: str) -> frozenset[str]:
    """JSON's types of the parameter `name`; empty where the schema does not say."""
    properties = schema.get("properties")
    return _types(properties.get(name) if isinstance(properties, Mapping) else None, 0)


def text_parameter(feed: Feed, key: str, types: frozenset[str], closers: Markers, first: bool) -> Reading[bool]:
    """One parameter up to its closing tag; a string is given piece by piece. False without the tag."""
    yield arguments_event(("{" if first else ", ") + to_json(key) + ": ")
    if types == {"string"}:
        yield arguments_event('"')
        if (yield from until(feed, closers, _escaped)) is None:
            return False
        yield arguments_event('"')
        return True
    pieces: list[str] = []

    def collect(text: str) -> AnswerEvent:
        pieces.append(text)
        return arguments_event("")

    if (yield from until(feed, closers, collect)) is None:
        return False
    yield arguments_event(typed_json("".join(pieces), types))
    return True


def _escaped(text: str) -> AnswerEvent:
    return arguments_event(to_json(text)[1:-1])


def _has_type(value: Any, allowed: tuple[Any, ...]) -> bool:
    if isinstance(value, bool):
        return bool in allowed
    if isinstance(value, float) and value.is_integer() and int in allowed:
        return True
    return any(isinstance(value, kind) for kind in allowed)


def _types(schema: Any, depth: int) -> frozenset[str]:
    if not isinstance(schema, Mapping) or depth > 8:
        return frozenset()
    given = schema.get("type")
    names = (
        {given}
        if isinstance(given, str)
        else {name for name in given if isinstance(name, str)}
        if isinstance(given, list)
        else set()
    )
    for key in ("anyOf", "oneOf", "allOf"):
        for branch in schema.get(key) or []:
            names |= _types(branch, depth + 1)
    values = schema.get("enum") if isinstance(schema.get("enum"), list) else []
    if not names and values and all(isinstance(value, str) for value in values):
        names = {"string"}
    return frozenset(names & set(_TYPES))
