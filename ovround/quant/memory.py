"""How much memory a conversion takes at its peak, from shapes alone: known before torch is imported or anything is read.

The constants were fitted to conversions of random Llamas of 20 to 40 million parameters to 4 bits, rounded and tuned, which
took 0.41 to 1.64 GB (torch 2.13 on Linux); the estimates lie 5 to 18 % above them.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from ovround.checkpoint import Checkpoint
from ovround.errors import UsageError
from ovround.models.decoder import Decoder
from ovround.options.convert_options import ConvertOptions
from ovround.quant.calibration.samples import Calibration
from ovround.quant.plan import END_TO_END_TOKENS, Plan, end_to_end_steps

COMPILER_BYTES = 170_000_000  # torch's compiler once it has worked: 0.64 -> 0.80 GB on a model of 7 million parameters
LIBRARIES_BYTES = 350_000_000  # torch, OpenVINO, ONNX and transformers once imported, and the tokenizer at work
FLOAT_BYTES = 4
# A weight under tuning: itself, its latent level, gradient and its two running means, the best so far, and what forward and
# backward hold of it. The means' 8 bytes were counted from the code, not fitted.
TUNING_BYTES = 56
ROUNDING_BYTES = 12  # a weight that is only rounded: as read, levels, what an exporter packs
# The same in the pass over all blocks: latent level, gradient, best so far, what forward and backward hold, codes. Counted
# from the code, not fitted to a measurement as the others are.
END_TO_END_BYTES = 30
PV_BYTES = 8  # PV-Tuning's running gradient and float copy, beside END_TO_END_BYTES
SEARCH_BYTES = 24  # a weight whose codes are searched: itself, what is left of it, products of a few hypotheses a row
SEARCH_MOST = 300_000_000  # rows are searched in parts of about so much
TABLE_BYTES = 20  # embedding and head: as read, in float32, rounded, and de-quantised
HIDDEN_COPIES, INNER_COPIES = 16, 6  # float32 values a token that a block's gradient needs, in units of its widths
LOGITS = 1 << 24  # quality looks at so many at a time, or at one window's
LOGITS_COPIES = 7  # float32: the logits and what is made of them, in both chains


@dataclass(frozen=True, slots=True)
class MemoryNeed:
    """Bytes at the peak: `block` is what is tuned together with its state, `chains` the hidden states of both chains.

    `model` is the whole model under the end-to-end pass, 0 without one.
    """

    libraries: int
    block: int
    tables: int
    chains: int
    model: int = 0

    @property
    def least(self) -> int:
        """With the chains in mapped files."""
        return self.libraries + max(self.block, self.tables, self.model)


def memory_need(
    checkpoint: Checkpoint, decoder: Decoder, plan: Plan, options: ConvertOptions, calibration: Calibration | None
) -> MemoryNeed:
    """What a conversion with these options will take; `calibration` None: it rounds, block after block."""
    config, infos = decoder.config, checkpoint.tensors()
    weights = max(
        sum(math.prod(infos[name].shape) for name in decoder.tensors(layer))
        for layer in range(config.num_hidden_layers)
    )
    table = max(math.prod(shape) for shape in decoder.tensors().values())
    if calibration is None:
        return MemoryNeed(LIBRARIES_BYTES, weights * ROUNDING_BYTES, table * ROUNDING_BYTES, 0)
    count, length = calibration.windows.shape
    window = min(options.window, config.num_hidden_layers)
    tokens = min(options.batch, count) * length
    width = HIDDEN_COPIES * config.hidden_size + INNER_COPIES * decoder.inner_size
    window_logits = length * config.vocab_size
    logits = min(max(LOGITS, window_logits), calibration.held_out * window_logits)
    model = 0
    if end_to_end_steps(decoder, plan, options) or options.pv:
        at_once = max(length, min(tokens, END_TO_END_TOKENS))
        activations = at_once * (width * config.num_hidden_layers + LOGITS_COPIES * config.vocab_size)
        model = (
            config.num_hidden_layers * weights * (END_TO_END_BYTES + PV_BYTES * options.pv)
            + 2 * table * TABLE_BYTES
            + activations * FLOAT_BYTES
        )
    searched = min(SEARCH_MOST, weights * SEARCH_BYTES) if options.tuner == "aqlm" else 0
    return MemoryNeed(
        LIBRARIES_BYTES + COMPILER_BYTES * (options.compile == "on"),
        window * (weights * TUNING_BYTES + tokens * width * FLOAT_BYTES) + searched,
        table * TABLE_BYTES + logits * LOGITS_COPIES * FLOAT_BYTES,
        2 * count * length * config.hidden_size * FLOAT_BYTES,
        model,
    )


def maps_activations(need: MemoryNeed, limit_bytes: int | None) -> bool:
    """Whether the chains must lie in files to stay below the limit; raises UsageError when that is not enough either."""
    if limit_bytes is None or need.least + need.chains <= limit_bytes:
        return False
    if need.least <= limit_bytes:
        return True
    parts = {"the libraries": need.libraries}
    if need.model >= max(need.block, need.tables):
        parts["the whole model tuned end to end"] = need.model
    elif need.block >= need.tables:
        parts["one block while it is worked on"] = need.block
    else:
        parts["embedding and head"] = need.tables
    told = ", ".join(f"{name} {_megabytes(size)}" for name, size in parts.items())
    raise UsageError(
        f"memory-limit is {_megabytes(limit_bytes)}; about {_megabytes(need.least)} are needed: {told}",
        hint=f"--memory-limit {_megabytes(need.least).replace(' ', '')}"
        + (", or --end-to-end 0" if need.model > max(need.block, need.tables) else "")
        + (", or a smaller --batch-size or --seqlen" if need.chains else ""),
    )


def _megabytes(size: int) -> str:
    return f"{math.ceil(size / 1e6)} MB"
