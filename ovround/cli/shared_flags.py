"""The flags that several commands share, as Typer annotations; `SamplingOptions` and `LLM` of the runtime give their meaning."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ovround.options.bits import parse_bits

SystemPrompt = Annotated[
    str | None,
    typer.Option("--system-prompt", "--system", help="System message before the first one; default: none."),
]
MaxNewTokens = Annotated[
    int | None, typer.Option(help="Limit of generated tokens; default: the model's own end, or its context.")
]
Temperature = Annotated[float, typer.Option(help="Sampling temperature; 0: always the likeliest token.")]
TopK = Annotated[int, typer.Option(help="Number of likeliest tokens to draw from; 0: no limit.")]
TopP = Annotated[float, typer.Option(help="Probability that the likeliest tokens to draw from add up to.")]
MinP = Annotated[float, typer.Option(help="Least probability of a token, as a share of the likeliest token's.")]
RepetitionPenalty = Annotated[float, typer.Option(help="Penalty on tokens that occurred before; 1: none.")]
Seed = Annotated[int | None, typer.Option(help="Seed of the draws; default: a new one.")]
Stop = Annotated[list[str] | None, typer.Option(help="Text that ends the answer and is left out; repeatable.")]
StopTokenId = Annotated[list[int] | None, typer.Option(help="Token that ends the answer; repeatable.")]
Device = Annotated[
    str, typer.Option("--device", "-d", help="Device: CPU, GPU, NPU, AUTO ...; `ovround devices` lists them.")
]
Threads = Annotated[int | None, typer.Option(help="CPU threads; default: the engine's own choice.")]
Exact = Annotated[bool, typer.Option("--exact/--default", help="Float32 arithmetic, or the engine's fast defaults.")]
Verify = Annotated[
    bool, typer.Option("--verify/--no-verify", help="Check of every byte against the manifest while loading.")
]
Kernel = Annotated[
    str,
    typer.Option(
        help="Kernels for quantised weights on CPU: native (our operator, an error where it is not installed), engine, or auto."
    ),
]
PromptLookup = Annotated[
    bool, typer.Option("--prompt-lookup", help="Draft tokens from the text so far: faster where texts repeat.")
]
DraftModel = Annotated[
    Path | None,
    typer.Option(help="Folder of a smaller model with the same tokenizer that drafts tokens; default: none."),
]
Regex = Annotated[str | None, typer.Option(help="Regular expression that the whole answer matches; default: none.")]
JsonSchema = Annotated[Path | None, typer.Option(help="File with a JSON schema that the answer keeps; default: none.")]
Bits = Annotated[
    int | None,
    typer.Option(
        parser=parse_bits,
        metavar="BITS",
        help="Bits of a weight where MODEL is not converted yet: 2, 3, 4, 8 or 16; default: what fits best, see `ovround fit`.",
    ),
]
Format = Annotated[
    str | None,
    typer.Option("--format", help="Format where MODEL is not converted yet: openvino or onnx; default: openvino."),
]
Json = Annotated[bool, typer.Option("--json", help="Result as JSON.")]
Quiet = Annotated[
    bool, typer.Option("--quiet", help="No progress, notes or statistics on stderr: warnings and errors alone.")
]
