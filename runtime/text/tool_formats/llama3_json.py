"""Llama 3: an object with `parameters`, bare or after `<|python_tag|>`; built-in tools are `<|python_tag|>NAME.call(KEY=VALUE)`."""

from __future__ import annotations

from ovround.runtime.text.tool_formats.feed import Feed, Reading, close_with, skip_space
from ovround.runtime.text.tool_formats.function_tags import function_call
from ovround.runtime.text.tool_formats.json_call import json_calls
from ovround.runtime.text.tool_formats.python_call import python_calls
from ovround.runtime.text.tool_formats.tool_format import ToolFormat, Tools


def python_tag(feed: Feed, tools: Tools) -> Reading[bool]:
    """What follows `<|python_tag|>`."""
    if (yield from skip_space(feed)) == "{":
        done = yield from json_calls(feed, tools)
    else:
        done = yield from python_calls(feed, tools)
    return done and (yield from close_with(feed, "<|eom_id|>"))


FORMAT = ToolFormat(
    "llama3_json", (("<|python_tag|>",), ("<|start_header_id|>",)),
    {"<|python_tag|>": python_tag, "<function=": function_call},
)  # fmt: skip
