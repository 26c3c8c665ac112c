"""The grammar of an answer that must be a call: a JSON object `{"name": ..., "arguments": ...}`, or a list of them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from ovround.runtime.decoding.grammar import Grammar
from ovround.runtime.server.nested_schema import nested_schema

MAX_FORCED_CALLS = 16


def forced_call(tools: Mapping[str, Mapping[str, Any]], *, several: bool = False) -> Grammar:
    """The grammar of one call of the tools (schema of the parameters by name), or a list of `several`."""
    calls = {f"call{index}": _call(name, tools[name], f"#/$defs/call{index}") for index, name in enumerate(tools)}
    call: dict[str, Any] = {"anyOf": [{"$ref": f"#/$defs/{name}"} for name in calls]}
    if several:
        call = {"type": "array", "items": call, "minItems": 1, "maxItems": MAX_FORCED_CALLS}
    return Grammar("json_schema", json.dumps({"$defs": calls, **call}))


def _call(name: str, parameters: Mapping[str, Any], at: str) -> dict[str, Any]:
    return {
        "type": "object",
        "properties": {"name": {"const": name}, "arguments": nested_schema(parameters, f"{at}/properties/arguments")},
        "required": ["name", "arguments"],
        "additionalProperties": False,
    }
