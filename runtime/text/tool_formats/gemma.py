"""Gemma 4 and FunctionGemma: `<|tool_call>call:NAME{KEY:VALUE}<tool_call|>` with strings between their own tokens.

Gemma 3 was shown Python in a fence: "```tool_code".
"""

from __future__ import annotations

import re

from ovround.runtime.text.tool_formats.answer_event import AnswerEvent, arguments_event
from ovround.runtime.text.tool_formats.feed import Feed, Markers, Reading, close_with, read_until, until
from ovround.runtime.text.tool_formats.json_value import is_json, to_json
from ovround.runtime.text.tool_formats.python_call import python_calls
from ovround.runtime.text.tool_formats.tool_format import Reader, ToolFormat, Tools, call_end


def braced_call(closer: str, quote: str) -> Reader:
    """The reader of `call:NAME{...}` up to `closer`; `quote` stands on both sides of a string."""
    end = Markers(closer)
    words = re.compile(
        rf'{re.escape(quote)}(?P<text>.*?){re.escape(quote)}|"(?:[^"\\]|\\.)*"|(?P<key>[A-Za-z_$][\w.$-]*)(?=\s*:)'
        r"|(?P<word>true|false|null|-?\d[\d.eE+-]*)|[{}\[\]:,\s]",
        re.DOTALL,
    )

    def read(feed: Feed, tools: Tools) -> Reading[bool]:
        head = yield from read_until(feed, "{")
        name = head[0].strip().removeprefix("call:").strip() if head else ""
        if name not in tools:
            return False
        pieces = ["{"]

        def collect(text: str) -> AnswerEvent:
            pieces.append(text)
            return arguments_event("")

        if (yield from until(feed, end, collect)) is None and feed.cut:
            return False
        arguments = _object("".join(pieces).strip(), words)
        if arguments is None:
            return False
        yield AnswerEvent("call", name)
        yield arguments_event(arguments)
        yield call_end(feed)
        return True

    return read


def tool_code(feed: Feed, tools: Tools) -> Reading[bool]:
    """What follows "```tool_code"."""
    return (yield from python_calls(feed, tools)) and (yield from close_with(feed, "```"))


def _object(source: str, words: re.Pattern[str]) -> str | None:
    """The JSON of an object with bare keys; None where it is none."""
    pieces, at = [], 0
    while at < len(source):
        match = words.match(source, at)
        if match is None:
            return None
        quoted = match["text"] if match["text"] is not None else match["key"]
        pieces.append(match[0] if quoted is None else to_json(quoted))
        at = match.end()
    text = "".join(pieces)
    return text if text.startswith("{") and is_json(text) else None


FORMAT = ToolFormat(
    "gemma", (("<|tool_call>",), ("<start_function_call>",), ("<start_of_turn>",), ("tool_code",)),
    {
        "<|tool_call>": braced_call("<tool_call|>", '<|"|>'),
        "<start_function_call>": braced_call("<end_function_call>", "<escape>"),
        "```tool_code": tool_code,
    },
    hidden=("<tool_call|>", '<|"|>', "<end_function_call>", "<escape>"),
)  # fmt: skip
