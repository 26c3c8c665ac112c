"""Hermes, Qwen 2.5 and 3, SmolLM3, Granite 4: `<tool_call>{"name": ..., "arguments": {...}}</tool_call>`."""

from __future__ import annotations

from ovround.runtime.text.tool_formats.tagged_call import CALLS, HIDDEN
from ovround.runtime.text.tool_formats.tool_format import ToolFormat

FORMAT = ToolFormat("hermes", (("<tool_call>",),), CALLS, hidden=HIDDEN)
