"""gpt-oss's harmony: messages in channels, `<|channel|>analysis<|message|>...<|end|>`.

`analysis` is reasoning, `final` and a `commentary` to nobody are text, and a message `to=functions.NAME` is a call.
"""

from __future__ import annotations

from ovround.runtime.text.tool_formats.answer_event import reasoning_event, text_event
from ovround.runtime.text.tool_formats.feed import Feed, Markers, Reading, close_with, read_until, until
from ovround.runtime.text.tool_formats.json_call import json_arguments
from ovround.runtime.text.tool_formats.tool_format import ToolFormat, Tools

_ENDS = ("<|end|>", "<|call|>", "<|return|>", "<|start|>", "<|channel|>")
_BODY_END = Markers(*_ENDS)
_RECIPIENT = "to=functions."


def message(feed: Feed, tools: Tools) -> Reading[bool]:
    """The messages after `<|channel|>` or `<|start|>`, up to an end token that no message follows."""
    while True:
        head = yield from read_until(feed, "<|message|>", "<|end|>", "<|call|>", "<|return|>", limit=400)
        if head is None or head[1] != "<|message|>":
            return head is not None
        header = head[0]
        if _RECIPIENT in header:
            name = header.split(_RECIPIENT, 1)[1].split("<|", 1)[0].split()
            if not name or name[0] not in tools:
                return False
            return (yield from json_arguments(feed, name[0])) and (yield from close_with(feed, *_ENDS[:3]))
        emit = reasoning_event if "analysis" in header else text_event
        feed.begin()
        end = yield from until(feed, _BODY_END, emit)
        feed.begin()
        if end not in ("<|start|>", "<|channel|>"):
            return True


def plain_recipient(feed: Feed, tools: Tools) -> Reading[bool]:
    """A call that names its recipient before its channel, or whose special tokens were left out of the text."""
    head = yield from read_until(feed, "{")
    name = head[0].split("<|", 1)[0].split() if head else []
    if not name or name[0] not in tools:
        return False
    feed.put_back(1)
    return (yield from json_arguments(feed, name[0])) and (yield from close_with(feed, *_ENDS[:3]))


FORMAT = ToolFormat(
    "harmony", (("<|channel|>", "<|message|>"),), {f"commentary {_RECIPIENT}": plain_recipient, _RECIPIENT: plain_recipient},
    {"<|channel|>": message, "<|start|>": message},
    hidden=("<|message|>", "<|constrain|>", "<|end|>", "<|call|>", "<|return|>"),
)  # fmt: skip
