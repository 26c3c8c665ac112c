"""One growing answer: pieces in, text, reasoning and calls out, and the reason for its end."""

from __future__ import annotations

from ovround.runtime.decoding.completion import Piece
from ovround.runtime.text.tool_formats.answer_event import AnswerEvent, text_event
from ovround.runtime.text.tool_formats.answer_parser import AnswerParser, AnswerSyntax


class AnswerReader:
    """`syntax` says how reasoning and calls are told from text; None: all of it is text."""

    def __init__(self, syntax: AnswerSyntax | None) -> None:
        self._parser = None if syntax is None else AnswerParser(syntax)

    def read(self, piece: Piece) -> list[AnswerEvent]:
        """What a piece adds to the answer."""
        if self._parser is None:
            return [text_event(piece.text)] if piece.text else []
        events = self._parser.push(piece.text) if piece.text else []
        if piece.finish_reason is not None:
            events += self._parser.finish(cut=piece.finish_reason == "length")
        return events

    @property
    def begun_calls(self) -> int:
        """Number of calls that have begun."""
        return 0 if self._parser is None else self._parser.begun

    def finish_reason(self, reason: str | None) -> str | None:
        """The engine's reason, or `tool_calls`."""
        if self._parser is None:
            return reason
        return finish_reason(reason, self._parser.calls, broken=self._parser.broken)


def finish_reason(reason: str | None, calls: int, *, broken: bool) -> str | None:
    """`tool_calls` for complete calls; an answer that was cut within one says `length`."""
    if reason is None or not calls or (broken and reason == "length"):
        return reason
    return "tool_calls"


def read_whole(text: str, syntax: AnswerSyntax | None, *, cut: bool) -> list[AnswerEvent]:
    """All events of a whole answer. A call that is not complete is text, unless the answer was `cut` in it."""
    if syntax is None:
        return [text_event(text)] if text else []
    parser = AnswerParser(syntax)
    events = [*parser.push(text), *parser.finish(cut=cut)]
    return events if cut else _without_broken_calls(events)


def _without_broken_calls(events: list[AnswerEvent]) -> list[AnswerEvent]:
    settled: list[AnswerEvent] = []
    begun = 0  # where the last call begins
    for event in events:
        if event.kind == "call":
            begun = len(settled)
        if event.kind == "broken":
            settled[begun:] = [text_event(event.text)] if event.text else []
        else:
            settled.append(event)
    return settled
