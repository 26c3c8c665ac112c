"""Calls without a marker, and the prompt for models whose template does not show them their tools.

A call may be the beginning of an answer, as an object, a list or Python, or stand in a fence of JSON. Every format reads these.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from ovround.runtime.text.tool_formats.feed import Feed, Reading, close_with, skip_space, starts
from ovround.runtime.text.tool_formats.json_call import json_calls
from ovround.runtime.text.tool_formats.python_call import python_calls
from ovround.runtime.text.tool_formats.tool_format import Reader, Tools

_PROMPT = """You may call functions. Their signatures are, one a line:
<tools>
{tools}
</tools>
To call a function, answer with one JSON object in tags for each call, and nothing else:
<tool_call>
{{"name": "FUNCTION", "arguments": {{"ARGUMENT": "VALUE"}}}}
</tool_call>
The results come in <tool_response> tags. Answer in plain text where no function is needed."""


def bare_calls(feed: Feed, tools: Tools, markers: Iterable[str]) -> Reading[bool]:
    """Calls at the beginning of an answer that begins with none of `markers`, and not with white space."""
    found = yield from starts(feed, "{", "[", *(f"{name}(" for name in tools), *markers)
    if found == "{":
        feed.put_back(1)
        return (yield from json_calls(feed, tools))
    if found == "[":
        if (yield from skip_space(feed)) == "{":
            return (yield from json_calls(feed, tools, listed=True))
        return (yield from python_calls(feed, tools, listed=True))
    if found is None:
        return False
    feed.put_back(len(found))
    return found[:-1] in tools and (yield from python_calls(feed, tools))


def fenced_calls(feed: Feed, tools: Tools) -> Reading[bool]:
    """What follows "```json"."""
    return (yield from json_calls(feed, tools)) and (yield from close_with(feed, "```"))


FENCES: dict[str, Reader] = {"```json": fenced_calls, "```tool_call": fenced_calls}


def with_tool_prompt(
    messages: Sequence[Mapping[str, Any]], tools: Sequence[Mapping[str, Any]], role: str = "system"
) -> list[dict[str, Any]]:
    """The chat with its tools, calls and results as plain text, for a template that knows none of them.

    The tools stand at the end of a first message of `role`, which is added where there is none.
    """
    prompt = _PROMPT.format(tools="\n".join(json.dumps(tool, ensure_ascii=False) for tool in tools))
    chat: list[dict[str, Any]] = []
    for message in messages:
        said = {key: value for key, value in message.items() if key not in ("tool_calls", "tool_call_id", "name")}
        if message.get("tool_calls"):
            said["content"] = "\n".join([_text(said.get("content")), *map(_call_text, message["tool_calls"])]).strip()
        elif message["role"] in ("tool", "function"):
            said = {"role": "user", "content": f"<tool_response>\n{_text(said.get('content'))}\n</tool_response>"}
            if chat and chat[-1]["role"] == "user" and str(chat[-1]["content"]).startswith("<tool_response>"):
                chat[-1]["content"] += "\n" + said["content"]  # templates want user and assistant in turn
                continue
        chat.append(said)
    if chat and (chat[0]["role"] == role or chat[0]["role"] in ("system", "developer")):
        chat[0]["content"] = f"{_text(chat[0].get('content'))}\n\n{prompt}".strip()
        return chat
    return [{"role": role, "content": prompt}, *chat]


def _text(content: Any) -> str:
    return content if isinstance(content, str) else "" if content is None else json.dumps(content, ensure_ascii=False)


def _call_text(call: Mapping[str, Any]) -> str:
    function = call["function"]
    text = json.dumps({"name": function["name"], "arguments": function["arguments"]}, ensure_ascii=False)
    return f"<tool_call>\n{text}\n</tool_call>"
