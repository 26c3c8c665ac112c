"""The sampling flags that `run` and `chat` share, as Typer annotations; the runtime's `SamplingOptions` gives their meaning."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

MaxNewTokens = Annotated[
    int | None, typer.Option(help="Most tokens to generate; default: until the model ends or is full.")
]
Temperature = Annotated[float, typer.Option(help="0: always the likeliest token; higher: more varied.")]
TopK = Annotated[int, typer.Option(help="Draw among the k likeliest tokens; 0: no limit.")]
TopP = Annotated[float, typer.Option(help="Draw among the likeliest tokens that add up to this probability.")]
MinP = Annotated[float, typer.Option(help="Draw among tokens at least this times as likely as the likeliest.")]
RepetitionPenalty = Annotated[float, typer.Option(help="Above 1: tokens that were there become less likely.")]
Seed = Annotated[int | None, typer.Option(help="Seed of the draws; default: a new one.")]
Stop = Annotated[list[str] | None, typer.Option(help="End before this text; repeatable.")]
StopTokenId = Annotated[list[int] | None, typer.Option(help="End after this token; repeatable.")]
Device = Annotated[str, typer.Option("--device", "-d", help="CPU, GPU, NPU, AUTO ...; `ovround devices` lists them.")]
Exact = Annotated[bool, typer.Option("--exact/--default", help="Float32 arithmetic, or the engine's fast defaults.")]
Verify = Annotated[
    bool, typer.Option("--verify/--no-verify", help="Compare every byte with the manifest while loading.")
]
OnMissingKernel = Annotated[
    str, typer.Option(help="Weights for the native operator where it is not installed: expand them, or error.")
]
Kernel = Annotated[
    str,
    typer.Option(help="Who multiplies quantised weights on CPU: native (our operator), engine (OpenVINO), or auto."),
]
PromptLookup = Annotated[
    bool, typer.Option("--prompt-lookup", help="Guess tokens from the text so far: faster where texts repeat.")
]
DraftModel = Annotated[
    Path | None, typer.Option(help="Folder of a smaller model with the same tokenizer, whose guesses are judged.")
]
Regex = Annotated[str | None, typer.Option(help="Regular expression that the whole answer must match.")]
JsonSchema = Annotated[Path | None, typer.Option(help="File with a JSON schema that the answer must keep.")]
