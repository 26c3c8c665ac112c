"""Qwen3-Coder: `<tool_call><function=NAME><parameter=KEY>VALUE</parameter></function></tool_call>`."""

from __future__ import annotations

from ovround.runtime.text.tool_formats.tagged_call import CALLS, HIDDEN
from ovround.runtime.text.tool_formats.tool_format import ToolFormat

FORMAT = ToolFormat("qwen3_coder", (("<function=", "<parameter="),), CALLS, hidden=HIDDEN)
