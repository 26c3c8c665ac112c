"""`ovround run`: one answer, streamed to stdout."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

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

NAME = "run"


def command(
    folder: Annotated[Path, typer.Argument(help="A folder that `ovround convert` wrote.")],
    prompt: Annotated[str, typer.Argument(help="The text to continue; `-` reads it from stdin.")],
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
    json: Annotated[bool, typer.Option("--json", help="Print the answer, usage and timings as JSON.")] = False,
) -> None:
    """Continue PROMPT with the model in FOLDER."""
    from ovround.runtime import LLM, SamplingOptions

    options = SamplingOptions(
        max_new_tokens, temperature, top_k, top_p, min_p, repetition_penalty, seed, tuple(stop or ()), tuple(stop_token_id or ())
    )  # fmt: skip
    text = sys.stdin.read() if prompt == "-" else prompt
    with LLM(folder, device=device, exact=exact) as llm:
        if json:
            import dataclasses

            from ovround.cli.printing import print_json

            print_json(dataclasses.asdict(llm.generate(text, options)))
            return
        for piece in llm.stream(text, options):
            typer.echo(piece.text, nl=False)
            sys.stdout.flush()
            if piece.timings is not None and piece.usage is not None:
                typer.echo()
                _statistics(
                    piece.usage.completion_tokens,
                    piece.timings.time_to_first_token_s,
                    piece.timings.time_per_output_token_s,
                )


def _statistics(tokens: int, first_s: float, per_token_s: float | None) -> None:
    rate = f", {1 / per_token_s:.1f} tokens/s" if per_token_s else ""
    print(f"{tokens} tokens, first after {first_s * 1e3:.0f} ms{rate}", file=sys.stderr)
