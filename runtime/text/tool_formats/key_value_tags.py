"""GLM 4.5 and later: `<tool_call>NAME\\n<arg_key>KEY</arg_key>\\n<arg_value>VALUE</arg_value>...</tool_call>`."""

from __future__ import annotations

from ovround.runtime.text.tool_formats.answer_event import AnswerEvent, arguments_event
from ovround.runtime.text.tool_formats.feed import Feed, Markers, Reading, read_until, skip_space, starts
from ovround.runtime.text.tool_formats.tool_format import Tools, call_end
from ovround.runtime.text.tool_formats.typed_value import parameter_types, text_parameter

_END = Markers("</arg_value>")


def glm_call(feed: Feed, tools: Tools) -> Reading[bool]:
    """A call at its name, up to `</tool_call>`."""
    longest = max(map(len, tools), default=0)
    head = yield from read_until(feed, "\n", "<arg_key>", "</tool_call>", limit=longest + 8)
    if head is None or (name := head[0].strip()) not in tools:
        return False
    yield AnswerEvent("call", name)
    first, marker = True, head[1]
    while marker != "</tool_call>":
        if marker != "<arg_key>":
            yield from skip_space(feed)
            found = yield from starts(feed, "<arg_key>", "</tool_call>")
            if found is None:
                return False
            marker = found
            continue
        key = yield from read_until(feed, "</arg_key>")
        if key is None:
            return False
        yield from skip_space(feed)
        if (yield from starts(feed, "<arg_value>")) is None:
            return False
        if not (yield from text_parameter(feed, key[0], parameter_types(tools[name], key[0]), _END, first)):
            return False
        first, marker = False, ""
    yield arguments_event("{}" if first else "}")
    yield call_end(feed)
    return True
