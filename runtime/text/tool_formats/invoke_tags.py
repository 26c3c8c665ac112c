"""`<invoke name="NAME"><parameter name="KEY">VALUE</parameter></invoke>`, with the prefix that a format puts before its tags."""

from __future__ import annotations

import re

from ovround.runtime.text.tool_formats.answer_event import AnswerEvent, arguments_event
from ovround.runtime.text.tool_formats.feed import Feed, Markers, Reading, read_until, skip_space, starts
from ovround.runtime.text.tool_formats.tool_format import Reader, Tools, call_end
from ovround.runtime.text.tool_formats.typed_value import parameter_types, text_parameter

_NAME = re.compile(r'\s*name="([^"]*)"')
_STRING = re.compile(r'\bstring="(true|false)"')


def invoke_reader(opening: str, closing: str, block: str) -> Reader:
    """The reader of what follows the opening tag of `block`; `opening` and `closing` begin every tag."""
    invoke, parameter = f"{opening}invoke", f"{opening}parameter"
    invoke_end, block_end = f"{closing}invoke>", f"{closing}{block}>"
    value_end = Markers(f"{closing}parameter>")

    def read(feed: Feed, tools: Tools) -> Reading[bool]:
        count = 0
        while True:
            yield from skip_space(feed)
            found = yield from starts(feed, invoke, block_end)
            if found != invoke:
                if found is None and not count:
                    return False
                feed.begin()
                return count > 0
            head = yield from read_until(feed, ">")
            name = _attribute(head)
            if name is None or name not in tools or not (yield from call(feed, tools, name)):
                return False
            count += 1

    def call(feed: Feed, tools: Tools, name: str) -> Reading[bool]:
        yield AnswerEvent("call", name)
        first = True
        while True:
            yield from skip_space(feed)
            found = yield from starts(feed, parameter, invoke_end)
            if found is None:
                return False
            if found == invoke_end:
                break
            head = yield from read_until(feed, ">")
            key = _attribute(head)
            if key is None or head is None:
                return False
            stated = _STRING.search(head[0])
            types = parameter_types(tools[name], key)
            if stated is not None:
                types = frozenset({"string"}) if stated[1] == "true" else types - {"string"}
            if not (yield from text_parameter(feed, key, types, value_end, first)):
                return False
            first = False
        yield arguments_event("{}" if first else "}")
        yield call_end(feed)
        return True

    return read


def _attribute(head: tuple[str, str] | None) -> str | None:
    match = _NAME.match(head[0]) if head else None
    return match[1] if match else None
