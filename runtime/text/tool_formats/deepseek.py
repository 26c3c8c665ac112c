"""DeepSeek V3, R1 and V3.1: tool tokens around `function`, a separator, the name and the arguments; V3.2 has invoke tags."""

from __future__ import annotations

from ovround.runtime.text.tool_formats.feed import Feed, Reading, close_with, read_until, skip_space, starts
from ovround.runtime.text.tool_formats.invoke_tags import invoke_reader
from ovround.runtime.text.tool_formats.json_call import json_arguments
from ovround.runtime.text.tool_formats.tool_format import ToolFormat, Tools

_BAR = "\uff5c"  # fullwidth vertical line
_GAP = "\u2581"  # lower one eighth block


def _token(words: str) -> str:
    return f"<{_BAR}{words.replace(' ', _GAP)}{_BAR}>"


CALLS_BEGIN, CALLS_END = _token("tool calls begin"), _token("tool calls end")
CALL_BEGIN, CALL_END, SEPARATOR = _token("tool call begin"), _token("tool call end"), _token("tool sep")
_DSML = f"<{_BAR}DSML{_BAR}"
_DSML_END = f"</{_BAR}DSML{_BAR}"


def deepseek_call(feed: Feed, tools: Tools) -> Reading[bool]:
    """The calls after the token that begins them all, or one."""
    count = 0
    while True:
        yield from skip_space(feed)
        if (yield from starts(feed, CALL_BEGIN, CALLS_END)) == CALLS_END:
            feed.begin()
            return count > 0
        head = yield from read_until(feed, SEPARATOR)
        name = head[0].strip() if head else ""
        if name == "function":
            line = yield from read_until(feed, "\n", "{")
            name = line[0].strip() if line else ""
            if line and line[1] == "{":
                feed.put_back(1)
        if name not in tools:
            return count > 0 and not feed.raw()
        yield from skip_space(feed)
        fenced = (yield from starts(feed, "```json", "```")) is not None
        if not (yield from json_arguments(feed, name)):
            return False
        count += 1
        if fenced:
            yield from close_with(feed, "```")
        yield from close_with(feed, CALL_END)
        if not (yield from skip_space(feed)):
            return True
        if (yield from starts(feed, CALLS_END)) is not None:
            feed.begin()
            return True


FORMAT = ToolFormat(
    "deepseek", ((CALLS_BEGIN,), (CALL_BEGIN,), (_DSML,)),
    {
        CALLS_BEGIN: deepseek_call,
        CALL_BEGIN: deepseek_call,
        f"{_DSML}function_calls>": invoke_reader(_DSML, _DSML_END, "function_calls"),
    },
    hidden=(CALLS_END, CALL_END, SEPARATOR),
)  # fmt: skip
