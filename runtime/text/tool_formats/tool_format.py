"""The record of one format, and what its readers share."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from ovround.runtime.text.tool_formats.answer_event import AnswerEvent
from ovround.runtime.text.tool_formats.feed import Feed, Reading

Tools = Mapping[str, Mapping[str, Any]]
"""The schema of the parameters of each tool that may be called, by its name."""
Reader = Callable[[Feed, Tools], Reading[bool]]
"""Reads what follows its marker; False where it is no call of a known tool, and is shown as text."""


@dataclass(frozen=True, slots=True)
class ToolFormat:
    """The markers of one format."""

    name: str
    signs: tuple[tuple[str, ...], ...]
    """A chat template of this format holds every text of one of these groups."""
    calls: Mapping[str, Reader]
    """The reader of a call by the marker before it."""
    channels: Mapping[str, Reader] = field(default_factory=dict)
    """The readers that are needed without tools as well."""
    hidden: tuple[str, ...] = ()
    """Further tokens of the format that a tokenizer may leave out of text."""

    def fits(self, template: str) -> bool:
        """Whether the text of a chat template shows this format."""
        return any(all(sign in template for sign in group) for group in self.signs)


def call_end(feed: Feed) -> AnswerEvent:
    """The end of a call; what was read of it is not shown as text any more."""
    feed.begin()
    return AnswerEvent("end", "")
