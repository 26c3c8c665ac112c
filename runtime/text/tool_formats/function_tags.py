"""`<function=NAME>` and its parameters: Qwen3-Coder's `<parameter=KEY>VALUE</parameter>`, or one JSON object as in Llama 3.1."""

from __future__ import annotations

from ovround.runtime.text.tool_formats.answer_event import AnswerEvent, arguments_event
from ovround.runtime.text.tool_formats.feed import Feed, Markers, Reading, close_with, read_until, skip_space, starts
from ovround.runtime.text.tool_formats.json_call import json_arguments
from ovround.runtime.text.tool_formats.tool_format import Tools, call_end
from ovround.runtime.text.tool_formats.typed_value import parameter_types, text_parameter

_END = Markers("\n</parameter>", "</parameter>")


def function_call(feed: Feed, tools: Tools) -> Reading[bool]:
    """What follows `<function=`."""
    head = yield from read_until(feed, ">")
    name = head[0].strip().strip("\"'") if head else ""
    if name not in tools:
        return False
    if (yield from skip_space(feed)) == "{":
        return (yield from json_arguments(feed, name)) and (yield from close_with(feed, "</function>"))
    yield AnswerEvent("call", name)
    first = True
    while (tag := (yield from starts(feed, "<parameter=", "</function>"))) == "<parameter=":
        key = yield from read_until(feed, ">")
        if key is None:
            return False
        yield from starts(feed, "\r\n", "\n")
        types = parameter_types(tools[name], key[0])
        if not (yield from text_parameter(feed, key[0], types, _END, first)):
            return False
        first = False
        yield from skip_space(feed)
    if tag is None:
        return False
    yield arguments_event("{}" if first else "}")
    yield call_end(feed)
    return True
