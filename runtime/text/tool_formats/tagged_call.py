"""What three formats write after `<tool_call>`: Hermes an object, Qwen3-Coder function tags, GLM a name and tags.

All are read wherever one of them is chosen.
"""

from __future__ import annotations

from ovround.runtime.text.tool_formats.feed import Feed, Reading, close_with, skip_space, starts
from ovround.runtime.text.tool_formats.function_tags import function_call
from ovround.runtime.text.tool_formats.json_call import json_calls
from ovround.runtime.text.tool_formats.key_value_tags import glm_call
from ovround.runtime.text.tool_formats.tool_format import Reader, Tools


def tagged_call(feed: Feed, tools: Tools) -> Reading[bool]:
    """What follows `<tool_call>`."""
    character = yield from skip_space(feed)
    if character in ("{", "["):
        done = yield from json_calls(feed, tools)
    elif character == "<":
        done = (yield from starts(feed, "<function=")) is not None and (yield from function_call(feed, tools))
    else:
        done = yield from glm_call(feed, tools)
    return done and (yield from close_with(feed, "</tool_call>"))


def untagged_function(feed: Feed, tools: Tools) -> Reading[bool]:
    """What follows `<function=` where the model left `<tool_call>` out."""
    return (yield from function_call(feed, tools)) and (yield from close_with(feed, "</tool_call>"))


CALLS: dict[str, Reader] = {"<tool_call>": tagged_call, "<function=": untagged_function}
HIDDEN = ("</tool_call>",)
