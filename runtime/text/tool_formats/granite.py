"""Granite 3: `<|tool_call|>[{...}, ...]`; Granite 4 writes Hermes' form."""

from __future__ import annotations

from ovround.runtime.text.tool_formats.json_call import json_calls_before
from ovround.runtime.text.tool_formats.tool_format import ToolFormat

FORMAT = ToolFormat(
    "granite", (("<|tool_call|>",),), {"<|tool_call|>": json_calls_before("</tool_call>", "<|/tool_call|>")}
)
