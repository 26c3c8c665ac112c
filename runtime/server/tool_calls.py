"""Tool calls: the grammar of a forced call, and the calls found in a free answer."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ovround.runtime.decoding.grammar import Grammar

_MARKED = re.compile(r"<tool_call>\s*(\{.*?\})\s*</tool_call>", re.DOTALL)  # Qwen, Hermes


@dataclass(frozen=True, slots=True)
class Call:
    """One call; `arguments` is JSON text, as in OpenAI's API."""

    name: str
    arguments: str


def forced_call(tools: Sequence[tuple[str, dict[str, Any]]]) -> Grammar:
    """The grammar of a JSON object `{"name": ..., "arguments": ...}` for one of the tools (name, schema of parameters)."""
    calls = [
        {
            "type": "object",
            "properties": {"name": {"const": name}, "arguments": parameters},
            "required": ["name", "arguments"],
            "additionalProperties": False,
        }
        for name, parameters in tools
    ]
    return Grammar("json_schema", json.dumps({"anyOf": calls}))


def parse_calls(text: str, names: Sequence[str]) -> tuple[str, list[Call]]:
    """An answer's text without its calls, and the calls of known tools.

    Two formats are read: `<tool_call>{...}</tool_call>`, and an answer that is one bare object (Llama 3 writes `parameters`).
    """
    calls = [call for match in _MARKED.finditer(text) if (call := _call(match[1], names)) is not None]
    if calls:
        return _MARKED.sub("", text).strip(), calls
    bare = _call(text.strip(), names)
    return ("", [bare]) if bare is not None else (text, [])


def _call(text: str, names: Sequence[str]) -> Call | None:
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return None
    if not isinstance(value, dict) or value.get("name") not in names:
        return None
    arguments = value.get("arguments", value.get("parameters", {}))
    return Call(value["name"], arguments if isinstance(arguments, str) else json.dumps(arguments, ensure_ascii=False))
