"""`ovround chat`: a conversation in the terminal, or over a pipe one message a line."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import typer

from ovround.cli.sampling_options import (
    Device,
    Exact,
    MaxNewTokens,
    MinP,
    RepetitionPenalty,
    Seed,
    Stop,
    StopTokenId,
    Temperature,
    TopK,
    TopP,
)  # fmt: skip

NAME = "chat"


def command(
    folder: Annotated[Path, typer.Argument(help="A folder that `ovround convert` wrote.")],
    system_prompt: Annotated[str | None, typer.Option(help="Instruction before the first message.")] = None,
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
    show_prompt: Annotated[bool, typer.Option("--show-prompt", help="Show the rendered template on stderr.")] = False,
) -> None:
    """Talk with the model in FOLDER; /reset starts over, /exit or end of input ends."""
    from ovround.runtime import LLM, SamplingOptions

    options = SamplingOptions(
        max_new_tokens, temperature, top_k, top_p, min_p, repetition_penalty, seed, tuple(stop or ()), tuple(stop_token_id or ())
    )  # fmt: skip
    opening: list[dict[str, Any]] = [{"role": "system", "content": system_prompt}] if system_prompt else []
    messages = list(opening)
    with LLM(folder, device=device, exact=exact) as llm:
        llm.tokenizer.render_chat([{"role": "user", "content": ""}])  # a model without a template says so now
        for line in _lines():
            if line == "/reset":
                messages = list(opening)
                continue
            if line == "/exit":
                return
            messages.append({"role": "user", "content": line})
            if show_prompt:
                print(llm.tokenizer.render_chat(messages), file=sys.stderr)
            answer = ""
            for piece in llm.stream_chat(messages, options):
                answer += piece.text
                typer.echo(piece.text, nl=False)
                sys.stdout.flush()
            typer.echo()
            messages.append({"role": "assistant", "content": answer})


def _lines() -> Iterator[str]:
    """Messages that are not empty, prompted for in a terminal."""
    while True:
        if sys.stdin.isatty():
            print("> ", end="", file=sys.stderr, flush=True)
        line = sys.stdin.readline()
        if not line:
            return
        if line.strip():
            yield line.strip()
