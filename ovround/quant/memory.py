"""Peak memory of a conversion, estimated from shapes before torch is imported or anything is read.

The constants were fitted to conversions of random Llamas of 20 to 40 million parameters to 4 bits, rounded and tuned, which
took 0.41 to 1.64 GB (torch 2.13 on Linux); the estimates lie 5 to 18 % above them.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from ovround.checkpoint import Checkpoint
from ovround.errors import UsageError
from ovround.models.calls import attention_specs
from ovround.models.decoder import Decoder
from ovround.options.tuning_settings import TuningSettings
from ovround.quant.calibration.samples import Calibration
from ovround.quant.plan import END_TO_END_TOKENS, Plan
from ovround.tensors.scheme import Codebooks

COMPILER_BYTES = 170_000_000  # torch's compiler: 0.64 -> 0.80 GB on a model of 7 million parameters
LIBRARIES_BYTES = 350_000_000  # torch, OpenVINO, ONNX and transformers, and the working tokenizer
FLOAT_BYTES = 4
# A weight under tuning: its value, latent level, gradient, two running means and best snapshot, and the copies of forward and
# backward. The 8 bytes of the means were counted from the code, not fitted.
TUNING_BYTES = 56
# An expert's weight, whose values and gradients exist one weight at a time: latent level, two running means, codes, and what the
# heap loses between thousands of tensors. A random block of 64 experts took 20 (one process, integers).
STREAMED_BYTES = 24
ROUNDING_BYTES = 12  # a weight that is only rounded: source value, level, the packed bytes of an exporter
# A weight in the end-to-end pass: latent level, gradient, best snapshot, copies of forward and backward, codes. Counted from
# the code, not fitted as the others are.
END_TO_END_BYTES = 30
PV_BYTES = 8  # PV-Tuning's running gradient and float copy, added to END_TO_END_BYTES
SEARCH_BYTES = 24  # a weight whose codes are searched: value, residual, products of a few hypotheses a row
SEARCH_MOST = 300_000_000  # rows are searched in parts of about this size
EMBEDDING_BYTES = 20  # embedding and head: source value, float32, level, de-quantised value
HIDDEN_COPIES, INNER_COPIES = 16, 6  # float32 values a token in a block's gradient, in units of its widths
LOGITS = 1 << 24  # logits in memory while quality is measured, or those of one sample if more
LOGITS_COPIES = 7  # float32 copies of the logits, for both models


@dataclass(frozen=True, slots=True)
class MemoryNeed:
    """Bytes at the peak. `block` is one block group under tuning, `activations` those of both models on all samples.

    `model` is the whole model in the end-to-end pass, 0 without one.
    """

    libraries: int
    block: int
    embeddings: int
    activations: int
    model: int = 0

    @property
    def least(self) -> int:
        """Bytes with the activations in mapped files."""
        return self.libraries + max(self.block, self.embeddings, self.model)


def memory_need(
    checkpoint: Checkpoint, decoder: Decoder, plan: Plan, settings: TuningSettings, calibration: Calibration | None
) -> MemoryNeed:
    """Memory of a conversion with these settings, whose batch is that of one process; `calibration` None: it only rounds."""
    config, infos = decoder.config, checkpoint.tensors()
    layers = range(config.num_hidden_layers)
    tables = max(sum(math.prod(infos[f"{name}.weight"].shape) for name in decoder.tables(layer)) for layer in layers)
    weights = max(sum(math.prod(infos[name].shape) for name in decoder.tensors(layer)) for layer in layers) - tables
    embedding = max(math.prod(shape) for shape in decoder.tensors().values())
    if calibration is None:
        largest = max(weights, tables)
        return MemoryNeed(LIBRARIES_BYTES, largest * ROUNDING_BYTES, embedding * ROUNDING_BYTES, 0)
    count, length = calibration.samples.shape
    group_size = min(settings.block_group_size, config.num_hidden_layers)
    tokens = min(settings.batch_size, count) * length
    width = HIDDEN_COPIES * decoder.stream_size + INNER_COPIES * decoder.inner_size
    sample_logits = length * config.vocab_size
    logits = min(max(LOGITS, sample_logits), calibration.held_out * sample_logits)
    model = 0
    if settings.end_to_end_steps or settings.pv_steps:
        at_once = max(length, min(tokens, END_TO_END_TOKENS))
        values = at_once * (width * config.num_hidden_layers + LOGITS_COPIES * config.vocab_size)
        model = (
            config.num_hidden_layers * weights * (END_TO_END_BYTES + PV_BYTES * (settings.pv_steps > 0))
            + config.num_hidden_layers * tables * FLOAT_BYTES
            + 2 * embedding * EMBEDDING_BYTES
            + values * FLOAT_BYTES
        )
    searched = (
        min(SEARCH_MOST, weights * SEARCH_BYTES)
        if any(isinstance(scheme, Codebooks) for scheme in plan.values())
        else 0
    )
    return MemoryNeed(
        LIBRARIES_BYTES + COMPILER_BYTES * settings.compile,
        group_size * (_tuning_bytes(decoder, tables) + tables * EMBEDDING_BYTES + tokens * width * FLOAT_BYTES)
        + searched,
        embedding * EMBEDDING_BYTES + logits * LOGITS_COPIES * FLOAT_BYTES,
        2 * count * length * (decoder.stream_size + _carried_width(decoder)) * FLOAT_BYTES,
        model,
    )


def _tuning_bytes(decoder: Decoder, tables: int) -> int:
    """Bytes of the weights of one block under tuning, the largest; its `tables` have none."""
    stacked, sizes = decoder.stacked(), []
    for layer in range(decoder.config.num_hidden_layers):
        shapes = decoder.tensors(layer)
        every = sum(map(math.prod, shapes.values()))
        experts = sum(math.prod(shapes[f"{name}.weight"]) for name in decoder.linears(layer) if name in stacked)
        sizes.append((every - experts) * TUNING_BYTES + experts * STREAMED_BYTES)
    return max(sizes) - tables * TUNING_BYTES


def _carried_width(decoder: Decoder) -> int:
    """Float32 values a token that blocks leave for later ones, at most."""
    specs = [spec for layer in range(decoder.config.num_hidden_layers) for spec in attention_specs(decoder, layer)]
    caches = sum(2 * spec.num_key_value_heads * spec.head_dim for spec in specs if spec.shared)
    return caches + decoder.config.hidden_size * decoder.embedding.shared


def maps_activations(need: MemoryNeed, limit_bytes: int | None) -> bool:
    """Whether activations must be in files to stay below the limit; raises UsageError when that is not enough either."""
    if limit_bytes is None or need.least + need.activations <= limit_bytes:
        return False
    if need.least <= limit_bytes:
        return True
    parts = {"the libraries": need.libraries}
    if need.model >= max(need.block, need.embeddings):
        parts["the whole model tuned end to end"] = need.model
    elif need.block >= need.embeddings:
        parts["one block"] = need.block
    else:
        parts["embedding and head"] = need.embeddings
    needs = ", ".join(f"{name} {_megabytes(size)}" for name, size in parts.items())
    raise UsageError(
        f"memory-limit is {_megabytes(limit_bytes)}; about {_megabytes(need.least)} are needed: {needs}",
        hint=f"--memory-limit {_megabytes(need.least).replace(' ', '')}"
        + (
            ", or `end_to_end_steps = 0` in the file of --tuning"
            if need.model > max(need.block, need.embeddings)
            else ""
        )
        + (", or a smaller --seqlen, or a smaller `batch_size` in the file of --tuning" if need.activations else ""),
    )


def _megabytes(size: int) -> str:
    return f"{math.ceil(size / 1e6)} MB"
