"""`ovround run`: one answer, streamed to stdout."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ovround.cli.printing import print_json, print_statistics
from ovround.cli.shared_flags import (
    Device,
    DraftModel,
    Exact,
    Json,
    JsonSchema,
    Kernel,
    MaxNewTokens,
    MinP,
    PromptLookup,
    Regex,
    RepetitionPenalty,
    Seed,
    Stop,
    StopTokenId,
    Temperature,
    TopK,
    TopP,
    Verify,
)  # fmt: skip
from ovround.errors import UsageError

if TYPE_CHECKING:
    from ovround.runtime import Grammar

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
    kernel: Kernel = "auto",
    num_beams: Annotated[int, typer.Option(help="Number of beams of a beam search; 1: none.")] = 1,
    regex: Regex = None,
    json_schema: JsonSchema = None,
    prompt_lookup: PromptLookup = False,
    draft_model: DraftModel = None,
    verify: Verify = True,
    json: Json = False,
) -> None:
    """Continue PROMPT with the model in FOLDER."""
    from ovround.runtime import LLM, SamplingOptions

    options = SamplingOptions(
        max_new_tokens, temperature, top_k, top_p, min_p, repetition_penalty, seed, tuple(stop or ()),
        tuple(stop_token_id or ()), num_beams=num_beams, grammar=_grammar(regex, json_schema),
    )  # fmt: skip
    text = sys.stdin.read() if prompt == "-" else prompt
    with LLM(
        folder, device=device, exact=exact, prompt_lookup=prompt_lookup, draft_model=draft_model,
        kernel=kernel, verify=verify,
    ) as llm:  # fmt: skip
        if json:
            import dataclasses

            print_json(dataclasses.asdict(llm.generate(text, options)))
            return
        if num_beams > 1:
            typer.echo(llm.generate(text, options).text)
            return
        for piece in llm.stream(text, options):
            typer.echo(piece.text, nl=False)
            sys.stdout.flush()
        typer.echo()
        print_statistics(piece)


def _grammar(regex: str | None, json_schema: Path | None) -> Grammar | None:
    """The form that the answer must have."""
    from ovround.runtime import Grammar

    if regex is not None and json_schema is not None:
        raise UsageError("--regex and --json-schema are both given; an answer has one form")
    if regex is not None:
        return Grammar("regex", regex)
    if json_schema is None:
        return None
    try:
        return Grammar("json_schema", json_schema.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UsageError(f"`{json_schema}` cannot be read: {error}") from error
