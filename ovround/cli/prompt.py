"""How `ovround run` makes a prompt of the text that it is given; `ovround-run` in C++ does the same."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ovround.errors import ArtifactError, GenerationError, UsageError

if TYPE_CHECKING:
    from ovround.runtime.text.tokenizer import Tokenizer

_WAY_OUT = "--raw continues the text without the template"


@dataclass(frozen=True, slots=True)
class Prompt:
    """Token ids, and how they came about.

    `format` is `chat_template` for a message that the template rendered. The text as it stands is `raw` as --raw says,
    `base_model` for a model without a template, and `own_template` for a text that is rendered already.
    """

    format: str
    ids: list[int]


def build_prompt(
    tokenizer: Tokenizer, text: str, *, raw: bool, system_prompt: str | None, quiet: bool = False
) -> Prompt:
    """The prompt; says on stderr, unless `quiet`, when `text` is taken as it stands without being asked.

    Raises UsageError for a system message without a template, GenerationError where the template refuses the messages.
    """
    if raw:
        return Prompt("raw", tokenizer.encode(text))
    if not tokenizer.has_chat_template:
        if system_prompt is not None:
            raise UsageError("system-prompt is given, yet the model has no chat template", hint="leave it out")
        return Prompt("base_model", tokenizer.encode(text))
    try:
        marker = tokenizer.template_marker(text)
        if marker and system_prompt is None:
            if not quiet:
                print(
                    f"the prompt has `{marker}`, as the model's chat template writes it, so it is taken as it stands, as with --raw",
                    file=sys.stderr,
                )
            return Prompt("own_template", tokenizer.encode_rendered(text))
        system = [{"role": "system", "content": system_prompt}] if system_prompt else []
        return Prompt("chat_template", tokenizer.encode_chat([*system, {"role": "user", "content": text}]))
    except (ArtifactError, GenerationError) as error:
        without = "leave --system-prompt out; " if system_prompt else ""
        error.hint = error.hint or f"{without}{_WAY_OUT}"
        raise
