"""`ovround chat`: a conversation in the terminal, or over a pipe one message a line."""

from __future__ import annotations

import json
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

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
from ovround.errors import OvroundError, UsageError

if TYPE_CHECKING:
    from ovround.runtime import LLM, Piece, SamplingOptions

NAME = "chat"
_HELP = """\
/reset         start over
/system TEXT   start over with another instruction; without a text, with none
/history       show the conversation
/save FILE     write the conversation as JSON
/exit          end, as the end of input does
Ctrl-C while an answer is written ends the answer."""
_NEXT_TURN = "\nUser:"
_BASE_MODEL = """\
this model has no chat template, as a base model: the conversation is written as a text that it continues,
with lines `User: ...` and `Assistant: ...`; an answer ends before the next `User:` (--show-prompt shows the text)"""


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
    markdown: Annotated[
        bool, typer.Option("--markdown/--plain", help="Answers in a terminal as laid-out Markdown, or as plain text.")
    ] = True,
) -> None:
    """Talk with MODEL; /help lists what else can be said, /exit or end of input ends."""
    from ovround.runtime import LLM, SamplingOptions
    from ovround.runtime.decoding.sampling import override

    options = SamplingOptions(
        max_new_tokens, temperature, top_k, top_p, min_p, repetition_penalty, seed, tuple(stop or ()), tuple(stop_token_id or ())
    )  # fmt: skip
    conversation = Conversation(system_prompt)
    terminal = sys.stdin.isatty() and sys.stdout.isatty()

    def load(folder: Path) -> LLM:
        return LLM(
            folder, device=device, exact=exact, prefix_cache=True, prompt_lookup=prompt_lookup, draft_model=draft_model,
            verify=verify,
        )  # fmt: skip

    with with_model(model, load, bits, format, device) as llm:
        templated = llm.tokenizer.has_chat_template
        if templated:
            llm.tokenizer.render_chat(
                [{"role": "user", "content": ""}]
            )  # a template that cannot be rendered says so now
        else:
            print(_BASE_MODEL, file=sys.stderr)
            options = override(options, stop=(*options.stop, _NEXT_TURN))
        for line in _lines():
            try:
                if line == "/exit":
                    return
                if line.startswith("/"):
                    conversation.command(line)
                    continue
                conversation.say(line)
                if show_prompt:
                    render = llm.tokenizer.render_chat if templated else plain_transcript
                    print(render(conversation.messages), file=sys.stderr)
                with _interruptible(llm):
                    conversation.answered(_answer(llm, conversation.messages, options, markdown=markdown and terminal))
            except OvroundError as error:
                if not terminal:
                    raise
                conversation.unsay()
                hint = error.hint or "/reset starts over"
                print(f"error: {error}\nhint: {hint}", file=sys.stderr)


class Conversation:
    """The messages so far, and what a line that begins with a slash does to them."""

    def __init__(self, system_prompt: str | None) -> None:
        self._system = system_prompt
        self.messages: list[dict[str, Any]] = []
        self.reset()

    def reset(self) -> None:
        """Only the instruction is left."""
        self.messages = [{"role": "system", "content": self._system}] if self._system else []

    def say(self, text: str) -> None:
        self.messages.append({"role": "user", "content": text})

    def unsay(self) -> None:
        """Take back a message that got no answer."""
        if self.messages and self.messages[-1]["role"] == "user":
            self.messages.pop()

    def answered(self, text: str) -> None:
        self.messages.append({"role": "assistant", "content": text})

    def command(self, line: str) -> None:
        """Do what `line` says; raises UsageError when it says nothing that is known, or cannot be done."""
        name, _, rest = line.partition(" ")
        rest = rest.strip()
        if name == "/reset":
            self.reset()
        elif name == "/system":
            self._system = rest or None
            self.reset()
        elif name == "/history":
            for message in self.messages:
                typer.echo(f"[{message['role']}] {message['content']}")
        elif name == "/save":
            self._save(rest)
        elif name == "/help":
            print(_HELP, file=sys.stderr)
        else:
            raise UsageError(f"`{name}` is no command", hint="/help lists them")

    def _save(self, name: str) -> None:
        if not name:
            raise UsageError("/save needs the name of a file")
        try:
            text = json.dumps({"messages": self.messages}, ensure_ascii=False, indent=2)
            Path(name).write_text(f"{text}\n", encoding="utf-8")
        except OSError as error:
            raise UsageError(f"`{name}` cannot be written: {error.strerror}") from error
        print(f"saved: {name}", file=sys.stderr)


def plain_transcript(messages: list[dict[str, Any]]) -> str:
    """The conversation as a text for a model without a chat template, up to where its answer begins."""
    names = {"user": "User: ", "assistant": "Assistant: "}
    lines = [f"{names.get(message['role'], '')}{message['content'].strip()}" for message in messages]
    return "\n".join([*lines, "Assistant:"])


def _answer(llm: LLM, messages: list[dict[str, Any]], options: SamplingOptions, *, markdown: bool) -> str:
    """Show the answer as it grows, then its statistics; the whole answer."""
    text = ""
    show = _laid_out() if markdown else _plain()
    with show as grow:
        if llm.tokenizer.has_chat_template:
            pieces = llm.stream_chat(messages, options)
        else:
            pieces = llm.stream(plain_transcript(messages), options)
        for piece in pieces:
            text += piece.text
            grow(piece, text)
    print_statistics(piece)
    return text


@contextmanager
def _plain() -> Iterator[Any]:
    def grow(piece: Piece, text: str) -> None:
        typer.echo(piece.text, nl=False)
        sys.stdout.flush()

    yield grow
    typer.echo()


@contextmanager
def _laid_out() -> Iterator[Any]:
    from rich.console import Console
    from rich.live import Live
    from rich.markdown import Markdown

    with Live(console=Console(), refresh_per_second=12, vertical_overflow="visible") as live:
        yield lambda piece, text: live.update(Markdown(text))


@contextmanager
def _interruptible(llm: LLM) -> Iterator[None]:
    """Ctrl-C ends the answer, not the conversation."""
    before = signal.signal(signal.SIGINT, lambda number, frame: llm.cancel())
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def _lines() -> Iterator[str]:
    """Messages that are not empty; in a terminal prompted for, with the arrow keys' history."""
    if sys.stdin.isatty():
        with suppress(ImportError):  # on Windows
            import readline  # noqa: F401  # gives input() its history
    while True:
        try:
            line = input("> ") if sys.stdin.isatty() else sys.stdin.readline()
        except EOFError:
            print(file=sys.stderr)
            return
        if not line and not sys.stdin.isatty():
            return
        if line.strip():
            yield line.strip()
