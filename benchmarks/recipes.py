"""What a second of tuning buys: length, number and batch of samples and the number of steps, on a model's first blocks.

Each setting `LENGTH:SAMPLES:BATCH:STEPS` tunes the first blocks of MODEL, one after the other as a conversion does. The rest stays in
float. A row has CPU seconds of the tuning (activations, start and steps, of this process alone, so that other work on the
machine counts little), and on text that was not tuned on the divergence of the whole model's predictions from the original's,
and the mean squared error of the last tuned block's output as a share of its mean square. `bos` or `no-bos` after a setting
says how its samples begin; the text that scores begins with what the tokenizer puts before a text in any case.

    python benchmarks/recipes.py MODEL --text T.txt --calibration C.txt 256:64:4:50 512:32:4:50 [--blocks 4] [--rows FILE.jsonl]

Rows that FILE.jsonl holds already are not measured again. The last line printed is one JSON document.
"""

from __future__ import annotations

import argparse
import json
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ovround.conversion.preparation import prepare
from ovround.models.decoder import Decoder
from ovround.models.torch_ops import TorchOps
from ovround.options.convert_options import ConvertOptions
from ovround.options.tuning_options import TuningOptions
from ovround.quant.calibration.samples import token_stream
from ovround.quant.passes.block_pass import BlockPass
from ovround.quant.passes.context import QuantContext, floats
from ovround.source_tokenizer import load_tokenizer
from ovround.texts import cut_windows, text_prefix

Row = dict[str, Any]


def options_for(setting: str, arguments: argparse.Namespace) -> ConvertOptions:
    """The options of one setting; steps over all blocks are left out, since few blocks are tuned."""
    length, samples, batch, steps, *protocol = setting.split(":")
    tuning = TuningOptions(batch_size=int(batch), end_to_end_steps=0, compile="off", bos=protocol != ["no-bos"])
    return ConvertOptions(
        bits=arguments.bits, group_size=arguments.group_size, iters=int(steps), nsamples=int(samples), seqlen=int(length),
        calibration=tuple(arguments.calibration), tuning=tuning,
    )  # fmt: skip


class Scorer:
    """Scores the first blocks' weights on text: the original's states and log-probabilities are computed once."""

    def __init__(self, model: Path, text: Path, count: int, length: int, blocks: int, context: QuantContext) -> None:
        tokenizer, self._context, self._decoder, self._blocks = load_tokenizer(model), context, context.decoder, blocks
        tokens = token_stream(tokenizer, [text], self._decoder.config.vocab_size)
        prefix = text_prefix(tokenizer)
        self._ids = torch.from_numpy(cut_windows(tokens, length, prefix)[:count])
        self._skip = max(1, len(prefix.ids)) - 1  # what predicts the first token of text
        self._states, self._log_p = self._run([])

    @torch.no_grad()
    def _run(self, tuned: list[dict[str, torch.Tensor]]) -> tuple[torch.Tensor, torch.Tensor]:
        """States after the tuned blocks `[S, T, hidden]` and log-probabilities `[S, T, V]`."""
        names = self._decoder.first_tensors()
        x = self._decoder.embed(TorchOps({name: self._context.original(name) for name in names}), self._ids)
        states = x
        for layer in range(self._decoder.config.num_hidden_layers):
            weights = tuned[layer] if layer < len(tuned) else self._context.original_block(layer)
            x = self._decoder.block(TorchOps(weights), x, layer)
            states = x if layer == self._blocks - 1 else states
        logits = self._decoder.head(TorchOps(self._context.original_head()), x)
        return states[:, self._skip :], logits[:, self._skip :].float().log_softmax(-1)

    def __call__(self, tuned: list[dict[str, torch.Tensor]]) -> Row:
        states, log_q = self._run(tuned)
        divergence = (self._log_p.exp() * (self._log_p - log_q)).sum(-1).mean()
        error = (states - self._states).square().sum() / self._states.square().sum()
        agreed = (log_q.argmax(-1) == self._log_p.argmax(-1)).float().mean()
        return {"kl_nats": float(divergence), "top1": float(agreed), "error": float(error)}


def tune(options: ConvertOptions, model: Path, blocks: int) -> tuple[list[dict[str, torch.Tensor]], float]:
    """The first blocks' tensors, tuned or rounded, and the CPU seconds that they took."""
    job = prepare(str(model), Path("never-written"), options)
    few = Decoder(
        replace(job.decoder.config, num_hidden_layers=blocks), job.decoder.embedding, job.decoder.blocks[:blocks],
        job.decoder.lm_head, job.decoder.head_at, job.decoder.layout,
    )  # fmt: skip
    context = QuantContext(job.checkpoint, few, job.plan, job.settings, job.calibration)
    started = time.process_time()
    tuned = []
    if job.calibration is None:
        from ovround.quant.passes.rtn_pass import RtnPass

        rounding = RtnPass(context)
        tuned = [floats(rounding.rounded(name) for name in few.tensors(layer)) for layer in range(blocks)]
    else:
        block_pass = BlockPass(context)
        with context.activations(block_pass.front()) as activations:
            for layer in range(blocks):
                (block,) = block_pass.tune(range(layer, layer + 1), activations)
                context.advance_quantized(activations, layer, block)
                tuned.append(floats(block.tensors))
    return tuned, time.process_time() - started


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("settings", nargs="+")
    parser.add_argument("--text", type=Path, required=True)
    parser.add_argument("--calibration", type=Path, action="append", default=[])
    parser.add_argument("--bits", type=int, default=4)
    parser.add_argument("--group-size", type=int, default=64)
    parser.add_argument("--blocks", type=int, default=4)
    parser.add_argument("--score", default="4:256", help="windows and tokens of each that score")
    parser.add_argument("--rows", type=Path, help="file that keeps the rows")
    arguments = parser.parse_args()
    rows: list[Row] = []
    if arguments.rows is not None and arguments.rows.exists():
        rows = [json.loads(line) for line in arguments.rows.read_text().splitlines()]
    job = prepare(str(arguments.model), Path("never-written"), options_for("8:1:1:0", arguments))
    context = QuantContext(job.checkpoint, job.decoder, job.plan, job.settings)
    count, length = map(int, arguments.score.split(":"))
    scorer: Scorer | None = None
    for setting in arguments.settings:
        if any(row["setting"] == setting for row in rows):
            continue
        scorer = scorer or Scorer(arguments.model, arguments.text, count, length, arguments.blocks, context)
        tuned, cpu_s = tune(options_for(setting, arguments), arguments.model, arguments.blocks)
        row = {"setting": setting, "cpu_s": round(cpu_s, 1), **scorer(tuned)}
        rows.append(row)
        print(row, flush=True)
        if arguments.rows is not None:
            with arguments.rows.open("a") as file:
                file.write(json.dumps(row) + "\n")
    assert all(np.isfinite(row["kl_nats"]) for row in rows)
    print(
        json.dumps({"model": arguments.model.name, "blocks": arguments.blocks, "score": arguments.score, "rows": rows})
    )


if __name__ == "__main__":
    main()
