"""GLM 4.5 and later: `<tool_call>NAME`, then `<arg_key>KEY</arg_key><arg_value>VALUE</arg_value>`."""

from __future__ import annotations

from ovround.runtime.text.tool_formats.tagged_call import CALLS, HIDDEN
from ovround.runtime.text.tool_formats.tool_format import ToolFormat

FORMAT = ToolFormat(
    "glm4", (("<arg_key>",),), CALLS, hidden=(*HIDDEN, "<arg_key>", "</arg_key>", "<arg_value>", "</arg_value>")
)
