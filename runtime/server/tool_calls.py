"""Tool calls: the grammar of a forced call, and the calls found in a free answer of any format."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from ovround.runtime.decoding.grammar import Grammar
from ovround.runtime.text.tool_formats.answer_parser import AnswerSyntax, ParsedCall, parse_answer
from ovround.runtime.text.tool_formats.reasoning import TAGS
from ovround.runtime.text.tool_formats.registry import GENERIC


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


def parse_calls(text: str, names: Sequence[str]) -> tuple[str, list[ParsedCall]]:
    """An answer's text without its calls and its reasoning, and the calls of known tools, for a model of any family."""
    answer = parse_answer(text, AnswerSyntax(GENERIC, {name: {} for name in names}, TAGS))
    return answer.content, list(answer.calls)
