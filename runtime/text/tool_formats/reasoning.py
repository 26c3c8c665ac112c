"""The tags between which models write their reasoning."""

from __future__ import annotations

TAGS = {
    "<think>": "</think>",  # DeepSeek R1, Qwen 3, GLM, MiniMax, SmolLM3
    "[THINK]": "[/THINK]",  # Magistral
    "<|channel>thought": "<channel|>",  # Gemma 4
    "<seed:think>": "</seed:think>",
    "Here is my thought process:": "Here is my response:",  # Granite 3
}
"""The closing tag by its opening one."""


def tags_of_template(template: str) -> dict[str, str]:
    """The tags that the text of a chat template shows."""
    return {opening: closing for opening, closing in TAGS.items() if closing in template or opening in template}


def opened_by(prompt_end: str, tags: dict[str, str]) -> str | None:
    """The closing tag of the reasoning that a prompt's end has opened; None where it has not."""
    text = prompt_end.rstrip()
    return next((closing for opening, closing in tags.items() if text.endswith(opening)), None)
