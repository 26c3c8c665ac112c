"""`ovround run`: one answer, streamed to stdout."""

from __future__ import annotations

import dataclasses
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ovround.cli.model_argument import Model, with_model
from ovround.cli.printing import print_json, print_statistics
from ovround.cli.prompt import build_prompt
from ovround.cli.shared_flags import (
    Bits,
    Device,
    DraftModel,
    Exact,
    Format,
    Json,
    JsonSchema,
    Kernel,
    MaxNewTokens,
    MinP,
    PromptLookup,
    Quiet,
    Regex,
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
from ovround.cli.terminal.answer_text import AnswerText
from ovround.cli.working import Working
from ovround.errors import UsageError

if TYPE_CHECKING:
    from ovround.runtime import Grammar

NAME = "run"


def command(
    model: Model,
    prompt: Annotated[
        str | None,
        typer.Argument(help="Message to the model, or text to continue; `-`, or none where it is piped, reads stdin."),
    ] = None,
    raw: Annotated[bool, typer.Option("--raw", help="PROMPT as it stands, without the model's chat template.")] = False,
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
    kernel: Kernel = "auto",
    num_beams: Annotated[int, typer.Option(help="Number of beams of a beam search; 1: none.")] = 1,
    regex: Regex = None,
    json_schema: JsonSchema = None,
    prompt_lookup: PromptLookup = False,
    draft_model: DraftModel = None,
    bits: Bits = None,
    format: Format = None,  # noqa: A002  the flag's name
    verify: Verify = True,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Answer PROMPT with MODEL, by its chat template where it has one; a base model continues the text."""
    from ovround.runtime import LLM, SamplingOptions

    options = SamplingOptions(
        max_new_tokens, temperature, top_k, top_p, min_p, repetition_penalty, seed, tuple(stop or ()),
        tuple(stop_token_id or ()), num_beams=num_beams, grammar=_grammar(regex, json_schema),
    )  # fmt: skip
    if raw and system_prompt is not None:
        raise UsageError("raw and system-prompt are both given; a text as it stands has no messages")
    text = sys.stdin.read() if prompt == "-" or (prompt is None and not sys.stdin.isatty()) else prompt
    if text is None or (prompt is None and not text.strip()):
        named = shlex.quote(model)
        hint = f"ovround run {named} 'Why is the sky blue?', or ovround chat {named}, which asks for messages"
        raise UsageError("there is no prompt", hint=hint)

    def load(folder: Path) -> LLM:
        with Working(f"loading {model}", quiet=quiet):
            return LLM(
                folder, device=device, exact=exact, prompt_lookup=prompt_lookup, draft_model=draft_model,
                kernel=kernel, verify=verify,
            )  # fmt: skip

    with with_model(model, load, bits, format, device, quiet=quiet) as llm:
        built = build_prompt(llm.tokenizer, text, raw=raw, system_prompt=system_prompt, quiet=quiet)
        shown = AnswerText()
        if json or num_beams > 1:
            with Working("answering", quiet=quiet):
                completion = llm.generate(built.ids, options)
            if json:
                print_json({**dataclasses.asdict(completion), "prompt_format": built.format, "kernel": llm.kernel})
            else:
                shown.write(completion.text)
                shown.end()
            return
        for piece in llm.stream(built.ids, options):
            shown.write(piece.text)
        shown.end()
        if not quiet:
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
