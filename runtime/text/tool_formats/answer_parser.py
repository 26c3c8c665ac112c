"""Text, reasoning and tool calls of an answer as it grows; the same however its text is split."""

from __future__ import annotations

from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass, field

from ovround.runtime.text.tool_formats.answer_event import AnswerEvent, EventKind, reasoning_event, text_event
from ovround.runtime.text.tool_formats.feed import Feed, Markers, Reading, skip_space, starts, until
from ovround.runtime.text.tool_formats.generic import FENCES, bare_calls
from ovround.runtime.text.tool_formats.tool_format import Reader, ToolFormat, Tools


@dataclass(frozen=True, slots=True)
class AnswerSyntax:
    """How one answer is to be read."""

    format: ToolFormat
    tools: Tools
    """The tools that may be called; without any, only reasoning is told from text."""
    tags: Mapping[str, str] = field(default_factory=dict)
    """The closing tag of reasoning by its opening one."""
    opened: str | None = None
    """The closing tag of the reasoning that the prompt has opened."""
    forced: bool = False
    """Whether the answer is constrained to be a call."""
    parallel: bool = True
    """Whether calls after the first count."""

    @property
    def readers(self) -> dict[str, Reader]:
        """What reads on after each marker."""
        calls = {**self.format.calls, **FENCES} if self.tools else {}
        return {**self.format.channels, **calls}


class AnswerParser:
    """One answer: pieces of text in, events out. Time is linear in the length of the text."""

    def __init__(self, syntax: AnswerSyntax) -> None:
        self._feed = Feed()
        self._syntax = syntax
        self._markers = tuple(syntax.readers)
        self._reading: Generator[AnswerEvent | None, None, None] = _answer(self._feed, syntax)
        self._spaces: dict[EventKind, list[str]] = {"text": [], "reasoning": []}  # shown only if more text follows
        self._trim: dict[EventKind, bool] = {"text": False, "reasoning": True}  # whether white space is dropped now
        self._in_call = self._ignoring = False
        self.begun = 0
        """Number of calls that have begun."""
        self.calls = 0
        """Number of complete calls."""
        self.broken = False
        """Whether a call began and did not end."""

    def push(self, text: str) -> list[AnswerEvent]:
        """What the next piece of the answer adds."""
        self._feed.add(text)
        events: list[AnswerEvent] = []
        for event in self._reading:
            if event is None:
                break
            events += self._settled(event)
        return _joined(events)

    def finish(self, *, cut: bool) -> list[AnswerEvent]:
        """What the answer's end adds; `cut` if its limit of tokens has ended it."""
        self._feed.closed, self._feed.cut = True, cut
        events = self.push("")
        if not self.calls:
            events += [AnswerEvent(kind, "".join(spaces)) for kind, spaces in self._spaces.items() if kind == "text"]
        return _joined(events)

    def _settled(self, event: AnswerEvent) -> list[AnswerEvent]:
        if event.kind == "text" or event.kind == "reasoning":
            return self._shown(event)
        if event.kind == "call":
            self._ignoring = not self._syntax.parallel and self.calls > 0
            self._in_call = True
            self.begun += not self._ignoring
            self._spaces["text"], self._trim["text"] = [], True
        if event.kind == "broken":
            if not self._in_call:
                return [] if self._is_lost(event.text) else self._shown(text_event(event.text))
            self._in_call, self.broken = False, self.broken or not self._ignoring
        if event.kind == "end":
            self._in_call = False
            self.calls += not self._ignoring
        return [] if self._ignoring or (event.kind == "arguments" and not event.text) else [event]

    def _is_lost(self, text: str) -> bool:
        """Whether `text` is a marker that was cut, or a call that was cut before its name was known."""
        if not self._feed.cut:
            return False
        is_begun = any(marker.startswith(text) for marker in self._markers)
        return self._syntax.forced or self.calls > 0 or is_begun or text.startswith(self._markers)

    def _shown(self, event: AnswerEvent) -> list[AnswerEvent]:
        kind, text = event
        if kind == "reasoning":
            self._trim["text"] = True
        elif text.strip():
            self._spaces["reasoning"] = []
        if self._trim[kind]:
            text = text.lstrip()
        body = text.rstrip()
        if not body:
            self._spaces[kind].append(text)
            return []
        shown = "".join([*self._spaces[kind], body])
        self._spaces[kind], self._trim[kind] = [text[len(body) :]], False
        return [AnswerEvent(kind, shown)]


@dataclass(frozen=True, slots=True)
class ParsedCall:
    """One call; `arguments` is JSON text, as in OpenAI's API."""

    name: str
    arguments: str


@dataclass(frozen=True, slots=True)
class ParsedAnswer:
    """A whole answer."""

    content: str
    reasoning: str
    calls: tuple[ParsedCall, ...]
    broken: bool
    """Whether a call began and did not end."""


def parse_answer(text: str, syntax: AnswerSyntax, *, cut: bool = False) -> ParsedAnswer:
    """The parts of a whole answer. A call that is not complete is text, unless the answer was `cut` in it."""
    parser = AnswerParser(syntax)
    return assembled([*parser.push(text), *parser.finish(cut=cut)], cut=cut)


def assembled(events: Sequence[AnswerEvent], *, cut: bool = False) -> ParsedAnswer:
    """The whole answer from all its events."""
    shown: dict[str, list[str]] = {"text": [], "reasoning": []}
    calls: list[ParsedCall] = []
    name, arguments, broken = "", list[str](), False
    for kind, text in events:
        if kind == "text" or kind == "reasoning":
            shown[kind].append(text)
        elif kind == "call":
            name, arguments = text, []
        elif kind == "arguments":
            arguments.append(text)
        elif kind == "end":
            calls.append(ParsedCall(name, "".join(arguments)))
        else:
            broken = True
            shown["text"] += [] if cut else [text]
    return ParsedAnswer("".join(shown["text"]), "".join(shown["reasoning"]), tuple(calls), broken)


def _answer(feed: Feed, syntax: AnswerSyntax) -> Reading[None]:
    closing = syntax.opened
    if closing is None and syntax.tags and not syntax.forced:
        yield from skip_space(feed)
        spaces = feed.raw()
        opening = yield from starts(feed, *syntax.tags)
        closing = syntax.tags[opening] if opening else None
        if closing is None:
            yield text_event(spaces)
    if closing is not None:
        yield from until(feed, Markers(closing), reasoning_event)
    readers = syntax.readers
    if syntax.tools:
        feed.begin()
        yield from skip_space(feed)
        yield text_event(feed.raw())
        feed.begin()
        if not (yield from bare_calls(feed, syntax.tools, readers)) and feed.raw():
            yield AnswerEvent("broken", feed.raw())
    markers = Markers(*readers)
    while (marker := (yield from until(feed, markers, text_event))) is not None:
        feed.begin(marker)
        if not (yield from readers[marker](feed, syntax.tools)):
            feed.take(len(feed.text) if feed.closed and feed.cut else 0)
            yield AnswerEvent("broken", feed.raw())  # what it has taken


def _joined(events: Sequence[AnswerEvent]) -> list[AnswerEvent]:
    """The events, neighbours of one kind made one."""
    groups: list[tuple[EventKind, list[str]]] = []
    for kind, text in events:
        if groups and groups[-1][0] == kind and kind in ("text", "reasoning", "arguments"):
            groups[-1][1].append(text)
        else:
            groups.append((kind, [text]))
    joined = [AnswerEvent(kind, "".join(texts)) for kind, texts in groups]
    return [event for event in joined if event.text or event.kind in ("call", "end")]
