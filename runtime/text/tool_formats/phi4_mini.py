"""Phi-4-mini: `<|tool_call|>[{...}, ...]<|/tool_call|>`, or `functools[{...}]`."""

from __future__ import annotations

from ovround.runtime.text.tool_formats.json_call import json_calls_before
from ovround.runtime.text.tool_formats.tool_format import ToolFormat

_READ = json_calls_before("<|/tool_call|>")
FORMAT = ToolFormat(
    "phi4_mini", (("<|/tool_call|>",), ("<|tool|>", "<|/tool|>")), {"<|tool_call|>": _READ, "functools": _READ},
    hidden=("<|/tool_call|>",),
)  # fmt: skip
