"""`ovround chat`: a conversation in the terminal, or over a pipe one message a line."""

from __future__ import annotations

import signal
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ovround.cli.model_argument import Model, with_model
from ovround.cli.printing import print_statistics
from ovround.cli.shared_flags import (
    Bits,
    Device,
    DraftModel,
    Exact,
    Format,
    MaxNewTokens,
    MinP,
    PromptLookup,
    Quiet,
    RepetitionPenalty,
    Seed,
    Stop,
    StopTokenId,
    SystemPrompt,
    Temperature,
    TopK,
    TopP,
    Verify,
)  # fmt: skip
from ovround.cli.terminal.answer_text import AnswerText, visible
from ovround.cli.terminal.chat_commands import ChatCommand, Outcome, commands, run_command
from ovround.cli.terminal.conversation import Conversation
from ovround.cli.terminal.line_editor import LineEditor, MessageReader, PipeReader
from ovround.cli.working import Working
from ovround.errors import OvroundError, UsageError

if TYPE_CHECKING:
    from ovround.cli.terminal.conversation import Message
    from ovround.runtime import LLM, SamplingOptions

NAME = "chat"
_NEXT_TURN = "\nUser:"
_BASE_MODEL = """\
this model has no chat template, as a base model: the conversation is written as a text that it continues,
with lines `User: ...` and `Assistant: ...`; an answer ends before the next `User:` (--show-prompt shows the text)"""
_SAME_ANSWER = (
    "the same answer comes again: it is not drawn at random; start with --temperature 0.8, and without --seed"
)


def command(
    model: Model,
    system_prompt: SystemPrompt = None,
    max_new_tokens: MaxNewTokens = None,
    temperature: Temperature = 0.0,
    top_k: TopK = 0,
    top_p: TopP = 1.0,
    min_p: MinP = 0.0,
    repetition_penalty: RepetitionPenalty = 1.0,
    seed: Seed = None,
    stop: Stop = None,
    stop_token_id: StopTokenId = None,
    device: Device = "CPU",
    exact: Exact = False,
    prompt_lookup: PromptLookup = False,
    draft_model: DraftModel = None,
    bits: Bits = None,
    format: Format = None,  # noqa: A002  the flag's name
    verify: Verify = True,
    show_prompt: Annotated[bool, typer.Option("--show-prompt", help="Rendered template on stderr.")] = False,
    quiet: Quiet = False,
) -> None:
    """Talk with MODEL; /help lists what else can be said, /exit or end of input ends."""
    from ovround.runtime import LLM, SamplingOptions

    options = SamplingOptions(
        max_new_tokens, temperature, top_k, top_p, min_p, repetition_penalty, seed, tuple(stop or ()), tuple(stop_token_id or ())
    )  # fmt: skip

    def load(folder: Path) -> LLM:
        with Working(f"loading {model}", quiet=quiet):
            return LLM(
                folder, device=device, exact=exact, prefix_cache=True, prompt_lookup=prompt_lookup, draft_model=draft_model,
                verify=verify,
            )  # fmt: skip

    with with_model(model, load, bits, format, device, quiet=quiet) as llm:
        chat = _Chat(llm, options, Conversation(system_prompt), show_prompt, quiet)
        chat.check(chat.conversation.messages)
        if sys.stdin.isatty() and not quiet:
            print(f"{visible(model)} on {llm.device}; /help lists the commands", file=sys.stderr)
        chat.run()


@dataclass(slots=True)
class _Chat:
    """A model and a conversation with it."""

    llm: LLM
    options: SamplingOptions
    conversation: Conversation
    show_prompt: bool
    quiet: bool
    signals: list[int] = field(default_factory=list)  # that came since the last message

    def __post_init__(self) -> None:
        from ovround.runtime.decoding.sampling import override

        if not self.llm.tokenizer.has_chat_template:
            if not self.quiet:
                print(_BASE_MODEL, file=sys.stderr)
            self.options = override(self.options, stop=(*self.options.stop, _NEXT_TURN))

    def check(self, messages: Sequence[Message]) -> None:
        """Raise OvroundError for messages that the template refuses, before anything is said."""
        if self.llm.tokenizer.has_chat_template:
            said = (
                messages
                if messages and messages[-1]["role"] != "system"
                else [*messages, {"role": "user", "content": ""}]
            )
            self.llm.tokenizer.render_chat(said)

    def run(self) -> None:
        """Answer message after message, until the input or the user ends the chat."""
        known = commands(self.check)
        editor = LineEditor(list(known)) if _has_editor() else None
        with self._interruptible() if editor is not None else nullcontext():
            self._talk(known, editor)

    def _talk(self, known: dict[str, ChatCommand], editor: LineEditor | None) -> None:
        reader = editor or PipeReader()
        draft: str | None = None
        while (line := self._next(reader, draft or "")) is not None:
            before, edited, draft = list(self.conversation.messages), draft is not None, None
            try:
                outcome = run_command(known, self.conversation, line) or self._said(line, instead=edited)
                if outcome.ends:
                    return
                if outcome.draft is not None and editor is None:
                    raise UsageError("/edit needs the new message", hint="/edit TEXT")
                draft = outcome.draft
                if outcome.answer and not self._answer(outcome, editor):
                    self.conversation.messages = before
            except OvroundError as error:
                if not sys.stdin.isatty():
                    raise
                self.conversation.messages = before
                _show(error)

    def _next(self, reader: MessageReader, draft: str) -> str | None:
        self.signals.clear()
        return reader.read(draft)

    def _said(self, line: str, *, instead: bool) -> Outcome:
        text = line.strip("\n").rstrip()
        if "\n" not in text:
            text = text.strip()
        self.conversation.say_instead(text) if instead else self.conversation.say(text)
        return Outcome(answer=True)

    def _answer(self, outcome: Outcome, editor: LineEditor | None) -> bool:
        """Show the answer as it grows, then its statistics; False where it was stopped before it began."""
        if outcome.repeats and (self.options.temperature == 0 or self.options.seed is not None):
            print(_SAME_ANSWER, file=sys.stderr)
        messages, llm = self.conversation.messages, self.llm
        templated = llm.tokenizer.has_chat_template
        if self.show_prompt:
            prompt = llm.tokenizer.render_chat(messages) if templated else plain_transcript(messages)
            print(visible(prompt) if sys.stderr.isatty() else prompt, file=sys.stderr)
        text, shown = "", AnswerText()
        with ExitStack() as stack:
            stack.enter_context(self._interruptible() if editor is None else editor.answering())
            pieces = (
                llm.stream_chat(messages, self.options)
                if templated
                else llm.stream(plain_transcript(messages), self.options)
            )
            try:
                for piece in pieces:
                    text += piece.text
                    shown.write(piece.text)
                    if self.signals and piece.finish_reason is None:
                        llm.cancel()  # again: one that came before the answer began was for none; the last piece follows
            finally:
                shown.end()
        if not self.quiet:
            print_statistics(piece)
        if not text and self.signals:
            return False
        self.conversation.answered(text)
        return True

    @contextmanager
    def _interruptible(self) -> Iterator[None]:
        """Ctrl-C ends the answer, not the conversation."""

        def stop(number: int, frame: object) -> None:
            self.signals.append(number)
            self.llm.cancel()

        before = signal.signal(signal.SIGINT, stop)
        try:
            yield
        finally:
            signal.signal(signal.SIGINT, before)


def plain_transcript(messages: Sequence[Message]) -> str:
    """The conversation as a text for a model without a chat template, up to where its answer begins."""
    names = {"user": "User: ", "assistant": "Assistant: "}
    lines = [f"{names.get(message['role'], '')}{message['content'].strip()}" for message in messages]
    return "\n".join([*lines, "Assistant:"])


def _has_editor() -> bool:
    """Whether a user types, and sees what is typed."""
    return sys.stdin.isatty() and (sys.stdout.isatty() or sys.stderr.isatty())


def _show(error: OvroundError) -> None:
    hints = [error.hint] if error.hint else []
    if not isinstance(error, UsageError):
        hints.append("/reset starts over")
    print(f"error: {visible(str(error))}", file=sys.stderr)
    if hints:
        print(f"hint: {visible('; '.join(hints))}", file=sys.stderr)
