"""The tokenizer of a model folder: text to token ids and back. Only this folder of the runtime knows text."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ovround.errors import GenerationError, UsageError
from ovround.runtime.text.chat_template import ChatTemplate, Message, ToolsNotShownError, read_templates, template_name
from ovround.runtime.text.template_marker import PROBE, template_marker
from ovround.runtime.text.tokenizer_file import load_backend, special_tokens

_SPACE = "\u2581"  # SentencePiece's visible space
_BYTE_TOKEN = re.compile(r"<0x[0-9A-Fa-f]{2}>")


class Tokenizer:
    """The `tokenizers` library on the folder's tokenizer.json; ids equal those of transformers' AutoTokenizer."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._backend = load_backend(folder)
        self._special_ids = {key for key, token in self._backend.get_added_tokens_decoder().items() if token.special}
        self._byte_ids = {key for token, key in self._backend.get_vocab().items() if _BYTE_TOKEN.fullmatch(token)}
        self._templates: dict[str, ChatTemplate] = {}  # compiled, by name
        self._template_sources: dict[str, str] | None = None
        self.special_tokens = special_tokens(folder)
        self.vocab_size = self._backend.get_vocab_size()
        self.id_count = max(self._backend.get_vocab().values(), default=-1) + 1  # ids may have gaps

    def encode(self, text: str, *, add_special_tokens: bool = True) -> list[int]:
        """Token ids of `text`, with the tokenizer's default special tokens around it."""
        try:
            ids: list[int] = self._backend.encode(text, add_special_tokens=add_special_tokens).ids
        except TypeError:
            raise UsageError(f"{text!r:.80} is no text that UTF-8 can write") from None
        return ids

    def decode(self, ids: Sequence[int], *, skip_special_tokens: bool = True) -> str:
        """The text of `ids`; ids beyond the vocabulary have none."""
        return self._backend.decode(list(ids), skip_special_tokens=skip_special_tokens)

    @property
    def has_chat_template(self) -> bool:
        """Whether the folder has a chat template: a base model has none."""
        return bool(self._sources())

    def template_text(self, *, tools: bool) -> str:
        """The source of the template for chats with or without tools; empty for a model without one."""
        sources = self._sources()
        return sources[template_name(sources, [] if tools else None)] if sources else ""

    def template_marker(self, text: str) -> str:
        """The mark of the model's chat template that `text` has already, such as a special token at its begin; else empty."""
        tokens = (str(self._backend.id_to_token(key)) for key in self._special_ids)
        sources = self._sources()
        probe: list[Message] = [{"role": "user", "content": PROBE}]
        rendered = _rendered(self._chat_template(None), probe, True, {}) if sources else ""
        return template_marker(text, tokens, rendered or "")

    def encode_rendered(self, text: str) -> list[int]:
        """Token ids of a prompt that a chat template rendered: it gets no special token that it begins with already."""
        plain, with_special = self.encode(text, add_special_tokens=False), self.encode(text)
        return plain if plain[:1] == with_special[:1] else with_special

    def render_chat(
        self,
        messages: Sequence[Message],
        *,
        add_generation_prompt: bool = True,
        variables: Mapping[str, Any] | None = None,
    ) -> str:
        """The prompt that the chat template gives for `messages`; a chat with `tools` takes the template `tool_use`.

        Raises GenerationError for a model without a template, and ToolsNotShownError where the template does not show the tools.
        """
        tools = None if variables is None else variables.get("tools")
        template = self._chat_template(tools)
        prompt = template.render(messages, add_generation_prompt=add_generation_prompt, variables=variables)
        if tools and variables is not None:
            without = {name: value for name, value in variables.items() if name != "tools"}
            if prompt == _rendered(template, messages, add_generation_prompt, without):
                raise ToolsNotShownError(
                    "the model's chat template does not show it the tools",
                    hint="leave tools out, or choose a model that was made for them",
                )
        return prompt

    def template_mentions(self, word: str, tools: object = None) -> bool:
        """Whether the chat template for a chat with `tools` has `word`, such as a role's name; raises as `render_chat`."""
        return word in self._chat_template(tools).source

    def _chat_template(self, tools: object) -> ChatTemplate:
        sources = self._sources()
        if not sources:
            raise GenerationError(
                f"`{self._folder}` has no chat template: the model was not made for chats",
                hint="give plain text instead: `ovround run`, or LLM.generate",
            )
        name = template_name(sources, tools)
        if name not in self._templates:
            self._templates[name] = ChatTemplate(sources[name], self.special_tokens)
        return self._templates[name]

    def _sources(self) -> dict[str, str]:
        """The folder's templates by name, read once."""
        if self._template_sources is None:
            self._template_sources = read_templates(self._folder)
        return self._template_sources

    def encode_chat(
        self,
        messages: Sequence[Message],
        *,
        add_generation_prompt: bool = True,
        variables: Mapping[str, Any] | None = None,
    ) -> list[int]:
        """Token ids of `render_chat`, whose text has its special tokens already."""
        prompt = self.render_chat(messages, add_generation_prompt=add_generation_prompt, variables=variables)
        return self.encode(prompt, add_special_tokens=False)

    def token_text(self, token_id: int) -> str:
        """The text of one token for lists of tokens; its name if the text is no complete character."""
        name = self._backend.id_to_token(token_id)
        if name is None or token_id in self._special_ids or token_id in self._byte_ids:
            return name or ""
        if _SPACE in name:
            return name.replace(_SPACE, " ")
        text = self._backend.decode([token_id])
        return name if "\ufffd" in text else text

    def to_json(self) -> str:
        """The tokenizer in use as the text of a tokenizer.json; it may differ from the folder's file."""
        return self._backend.to_str()

    def vocabulary(self) -> dict[str, int]:
        """Token ids by text, with the added tokens."""
        return self._backend.get_vocab()

    def is_special(self, token_id: int) -> bool:
        """Whether the token is left out of decoded text."""
        return token_id in self._special_ids

    @property
    def end_token_ids(self) -> tuple[int, ...]:
        """The id of its eos_token, for a folder whose configuration names no end token; what ovround writes always does."""
        token_id = self.special_id(self.special_tokens.get("eos_token", ""))
        return () if token_id is None else (token_id,)

    def is_byte(self, token_id: int) -> bool:
        """Whether the token stands for one byte of a character, `<0xE2>`."""
        return token_id in self._byte_ids

    def special_id(self, token: str) -> int | None:
        """The id of `token` if it is a special token, which decoded text leaves out; else None."""
        token_id = self._backend.token_to_id(token)
        return token_id if token_id is not None and token_id in self._special_ids else None


def _rendered(
    template: ChatTemplate, messages: Sequence[Message], add_generation_prompt: bool, variables: Mapping[str, Any]
) -> str | None:
    """The prompt, None where the template refuses these messages."""
    try:
        return template.render(messages, add_generation_prompt=add_generation_prompt, variables=variables)
    except GenerationError:
        return None
