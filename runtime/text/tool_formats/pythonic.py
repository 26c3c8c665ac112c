"""Llama 3.2 and 4: `[NAME(KEY=VALUE), ...]`, also between `<|python_start|>` and `<|python_end|>`."""

from __future__ import annotations

from ovround.runtime.text.tool_formats.feed import Feed, Reading, close_with, skip_space
from ovround.runtime.text.tool_formats.json_call import json_calls
from ovround.runtime.text.tool_formats.python_call import python_calls
from ovround.runtime.text.tool_formats.tool_format import ToolFormat, Tools


def python_start(feed: Feed, tools: Tools) -> Reading[bool]:
    """What follows `<|python_start|>`."""
    if (yield from skip_space(feed)) == "{":
        done = yield from json_calls(feed, tools)
    else:
        done = yield from python_calls(feed, tools)
    return done and (yield from close_with(feed, "<|python_end|>"))


FORMAT = ToolFormat(
    "pythonic", (("<|python_start|>",), ("<|header_start|>",)), {"<|python_start|>": python_start},
    hidden=("<|python_end|>",),
)  # fmt: skip
