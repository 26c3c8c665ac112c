"""Chat templates: Jinja2 in a sandbox, set up as transformers sets it up, so that a chat gives the same prompt.

A template is code from whoever made the model. The sandbox keeps it from Python's internals and from changing what it
is given; it does not bound its running time.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from jinja2 import TemplateError, nodes
from jinja2.ext import Extension, loopcontrols
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment

from ovround.errors import ArtifactError, GenerationError, UsageError
from ovround.runtime.json_object import read_object

Message = Mapping[str, Any]
_RESERVED = ("messages", "add_generation_prompt", "raise_exception", "strftime_now")


class ChatTemplate:
    """One template and the special tokens that it may name."""

    def __init__(self, source: str, special_tokens: Mapping[str, str]) -> None:
        environment = ImmutableSandboxedEnvironment(
            trim_blocks=True, lstrip_blocks=True, extensions=[_GenerationBlock, loopcontrols]
        )
        environment.filters["tojson"] = _to_json
        environment.globals["raise_exception"] = _raise_exception
        environment.globals["strftime_now"] = _strftime_now
        try:
            self._template = environment.from_string(source)
        except TemplateError as error:
            raise ArtifactError(f"the chat template cannot be read: {error}") from error
        self._special_tokens = dict(special_tokens)

    def render(
        self,
        messages: Sequence[Message],
        *,
        add_generation_prompt: bool = True,
        variables: Mapping[str, Any] | None = None,
    ) -> str:
        """The prompt for `messages`, each with `role` and usually `content`; a key whose value is None is left out.

        `variables` are the template's own (`tools`, `enable_thinking`, ...). Raises UsageError for messages that are
        none, GenerationError with the template's words when it refuses them.
        """
        own = dict(variables or {})
        taken = [name for name in own if name in _RESERVED]
        if taken:
            raise UsageError(f"template variable `{taken[0]}` is set by the chat itself", hint="choose another name")
        context = {"tools": None, "documents": None, **self._special_tokens, **_plain(own)}
        try:
            return self._template.render(
                messages=_checked(messages), add_generation_prompt=add_generation_prompt, **context
            )
        except (TemplateError, TypeError, ValueError, ArithmeticError, LookupError, RecursionError) as error:
            raise GenerationError(f"the chat template refuses these messages: {error}") from error


def read_template(folder: Path) -> str | None:
    """The template of a folder or None: of chat_template.jinja, tokenizer_config.json, then chat_template.json."""
    path = folder / "chat_template.jinja"
    if path.is_file():
        try:
            return path.read_text(encoding="utf-8")
        except (OSError, ValueError) as error:
            raise ArtifactError(f"`{path}` cannot be read: {error}") from error
    for name in ("tokenizer_config.json", "chat_template.json"):
        template = read_object(folder / name, optional=True).get("chat_template")
        if isinstance(template, list):
            named = [entry for entry in template if isinstance(entry, dict)]
            template = next((entry.get("template") for entry in named if entry.get("name") == "default"), None)
        if isinstance(template, str):
            return template
    return None


def _checked(messages: Sequence[Message]) -> list[dict[str, Any]]:
    if isinstance(messages, (str, bytes)) or not isinstance(messages, Sequence) or not messages:
        raise UsageError(f"messages is {messages!r}; a list of at least one message is needed")
    for message in messages:
        if not isinstance(message, Mapping) or not isinstance(message.get("role"), str):
            raise UsageError(
                f"message {message!r} has no role", hint='a message is {"role": "user", "content": "..."} or the like'
            )
    return [{key: _plain(value) for key, value in message.items() if value is not None} for message in messages]


def _plain(value: Any) -> Any:
    """`value` rebuilt from JSON's types, so that a template never holds an object with methods that do things."""
    if value is None or type(value) in (str, int, float, bool):
        return value
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    raise UsageError(f"a chat holds a {type(value).__name__}; text, numbers, lists and mappings are allowed")


def _to_json(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    """Jinja2's own filter escapes HTML; templates are written against this one."""
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


def _raise_exception(message: str) -> None:
    raise TemplateError(message)


def _strftime_now(pattern: str) -> str:
    return datetime.now().strftime(pattern)


class _GenerationBlock(Extension):
    """`{% generation %} ... {% endgeneration %}` marks an answer for training; here it is what is inside it."""

    tags = {"generation"}  # noqa: RUF012  # as jinja2 declares it

    def parse(self, parser: Parser) -> list[nodes.Node]:
        next(parser.stream)
        return list(parser.parse_statements(("name:endgeneration",), drop_needle=True))
