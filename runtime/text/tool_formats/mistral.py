"""Mistral: `[TOOL_CALLS] [{...}, ...]`, and since 2025 `[TOOL_CALLS]NAME[ARGS]{...}` once a call."""

from __future__ import annotations

from ovround.runtime.text.tool_formats.feed import Feed, Reading, read_until, skip_space
from ovround.runtime.text.tool_formats.json_call import json_arguments, json_calls
from ovround.runtime.text.tool_formats.tool_format import ToolFormat, Tools


def mistral_calls(feed: Feed, tools: Tools) -> Reading[bool]:
    """What follows `[TOOL_CALLS]`."""
    if (yield from skip_space(feed)) in ("[", "{"):
        return (yield from json_calls(feed, tools))
    head = yield from read_until(feed, "[ARGS]", "[CALL_ID]", "{")
    if head is None or (name := head[0].strip()) not in tools:
        return False
    if head[1] == "[CALL_ID]" and (yield from read_until(feed, "[ARGS]")) is None:
        return False
    if head[1] == "{":
        feed.put_back(1)
    return (yield from json_arguments(feed, name))


FORMAT = ToolFormat("mistral", (("[TOOL_CALLS]",),), {"[TOOL_CALLS]": mistral_calls}, hidden=("[ARGS]", "[CALL_ID]"))
