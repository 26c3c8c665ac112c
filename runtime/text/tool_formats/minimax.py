"""MiniMax M2: invoke tags in `<minimax:tool_call>`; M1: one object a line in `<tool_calls>`."""

from __future__ import annotations

from ovround.runtime.text.tool_formats.invoke_tags import invoke_reader
from ovround.runtime.text.tool_formats.json_call import json_calls_before
from ovround.runtime.text.tool_formats.tool_format import ToolFormat

FORMAT = ToolFormat(
    "minimax", (("<minimax:tool_call>",), ("<tool_calls>",)),
    {
        "<minimax:tool_call>": invoke_reader("<", "</", "minimax:tool_call"),
        "<tool_calls>": json_calls_before("</tool_calls>"),
    },
    hidden=("</minimax:tool_call>", "</tool_calls>"),
)  # fmt: skip
