"""How the answers of one model are read: its format of tool calls, its reasoning, and a prompt for tools that its template hides."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any

from ovround.errors import GenerationError
from ovround.runtime.decoding.sampling import SamplingOptions
from ovround.runtime.text.chat_template import Message, ToolsNotShownError
from ovround.runtime.text.tokenizer import Tokenizer
from ovround.runtime.text.tool_formats.answer_parser import AnswerSyntax
from ovround.runtime.text.tool_formats.generic import with_tool_prompt
from ovround.runtime.text.tool_formats.reasoning import TAGS, opened_by, tags_of_template
from ovround.runtime.text.tool_formats.registry import GENERIC, format_of_template, tool_format
from ovround.runtime.text.tool_formats.tool_format import ToolFormat, Tools

_PROMPT_END_TOKENS = 16  # enough for a tag and the white space after it


@dataclass(frozen=True, slots=True)
class ChatSyntax:
    """The format, and the tags of reasoning, that a model's chat template shows."""

    format: ToolFormat
    tags: Mapping[str, str]
    shows_tools: bool
    """Whether the template has a place for tools; one that has none gets a generic prompt."""
    chosen: bool = False
    """Whether the user has named the format."""

    def describe(self) -> str:
        """The format and its reason, for the line that a server prints at its start."""
        reason = (
            "--tool-parser" if self.chosen else "any format" if self.format is GENERIC else "from the chat template"
        )
        prompt = "" if self.shows_tools else "; the chat template does not show tools: they go into a system message"
        return f"{self.format.name} ({reason}){prompt}"

    def answer_syntax(
        self, tokenizer: Tokenizer, prompt_ids: Sequence[int], tools: Tools, *, forced: bool = False,
        constrained: bool = False, parallel: bool = True,
    ) -> AnswerSyntax | None:  # fmt: skip
        """How the answer to a prompt is read; None where all of it is text.

        An answer is `forced` to be a call or `constrained` by another grammar; either has no reasoning.
        """
        tags = {} if forced or constrained else dict(self.tags)
        has_channels = self.format is not GENERIC and bool(self.format.channels)
        if not (tools or tags or has_channels):
            return None
        prompt_end = tokenizer.decode(prompt_ids[-_PROMPT_END_TOKENS:], skip_special_tokens=False)
        return AnswerSyntax(self.format, tools, tags, opened_by(prompt_end, tags), forced=forced, parallel=parallel)


def read_chat_syntax(tokenizer: Tokenizer, parser: str | None = None) -> ChatSyntax:
    """The syntax of a model, or the format that `parser` names. Raises UsageError for a name that there is not."""
    try:
        template = tokenizer.template_text(tools=True)
    except GenerationError:
        template = ""  # several templates and no default one: each chat is refused with the reason
    form = format_of_template(template) if parser is None else tool_format(parser)
    tags = TAGS if form is GENERIC and parser is not None else tags_of_template(template)
    return ChatSyntax(form, tags, "tools" in template, parser is not None)


def encode_chat(tokenizer: Tokenizer, messages: Sequence[Message], variables: Mapping[str, Any]) -> list[int]:
    """Token ids of the prompt; tools that the template does not show stand in a system message, or the first one."""
    tools = list(variables.get("tools") or [])
    if not tools or "tools" in tokenizer.template_text(tools=True):
        with suppress(ToolsNotShownError):
            return tokenizer.encode_chat(messages, variables=variables)
    plain = {name: value for name, value in variables.items() if name != "tools"}
    try:
        return tokenizer.encode_chat(with_tool_prompt(messages, tools), variables=plain)
    except GenerationError:  # a template without system messages
        return tokenizer.encode_chat(with_tool_prompt(messages, tools, role="user"), variables=plain)


def with_shown_tokens(options: SamplingOptions, syntax: AnswerSyntax | None, tokenizer: Tokenizer) -> SamplingOptions:
    """The options with the markers of `syntax` that are special tokens, and which text would leave out."""
    if syntax is None:
        return options
    markers = [*syntax.readers, *syntax.format.hidden, *syntax.tags, *syntax.tags.values()]
    ids = {marker: tokenizer.special_id(marker) for marker in dict.fromkeys(markers)}
    return replace(options, shown_tokens=tuple((key, marker) for marker, key in ids.items() if key is not None))
