"""Calibration samples: text files cut into sequences of tokens, by the model's own tokenizer; needs no torch."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer

from ovround.artifact.manifest import SampleRecord
from ovround.errors import CalibrationError
from ovround.options.convert_options import ConvertOptions, resolved_recipe
from ovround.texts import Document, Prefix, Render, cut_windows, read_documents, text_prefix
from ovround.texts.data_set import is_data_set
from ovround.texts.windows import NO_PREFIX

DEFAULT_TEXT = Path(__file__).resolve().parents[2] / "calibration.txt"
DEFAULT_LENGTH = (
    256  # tokens a sample when --seqlen is not given; longer ones cost more and win nothing (tuning-speed.md)
)
LONGEST_CHOSEN = 2048  # tokens a sample that --time chooses at most
FEWEST_SAMPLES = 8  # of the built-in text; with fewer, the given number is required
DRAWN_FROM = 4
MOST_CHOSEN = 512  # samples that are chosen, not asked for
_BATCH = 256  # documents
SHORTEST_SAMPLE = 8  # tokens; the options allow no shorter --seqlen


@dataclass(frozen=True, slots=True)
class Calibration:
    """Token ids `[S, T]` int64 of S samples; the last `held_out` of them are never tuned on. Each begins with `prefix`."""

    samples: NDArray[np.int64]
    held_out: int
    prefix: Prefix = NO_PREFIX

    @property
    def record(self) -> SampleRecord:
        """What the manifest says about the samples."""
        count, length = self.samples.shape
        return SampleRecord(count - self.held_out, self.held_out, length, self.prefix.tokens)

    def part(self, rank: int, size: int) -> Calibration:
        """The share of process `rank` of `size`: every `size`-th tuning sample, and every `size`-th held-out one."""
        if size == 1:
            return self
        train = len(self.samples) - self.held_out
        held_out = self.samples[train:][rank::size]
        mine = np.concatenate([self.samples[:train][rank::size], held_out])
        return replace(self, samples=mine, held_out=len(held_out))


def calibrate(
    tokenizer: Tokenizer, options: ConvertOptions, context: int, vocab_size: int, render: Render | None = None
) -> Calibration:
    """Cut the calibration text into samples for a model with `context` positions.

    Each file is tokenised document by document; `render` writes a chat as the model sees it. The tokens are joined and cut
    into samples of `seqlen` that begin with what the tokenizer puts before a text, unless `bos` is false. The seed draws
    `nsamples` of them and an eighth more to be held out. Of the built-in text, as many samples as it gives are used; of a
    data set of the hub, the first ones that give DRAWN_FROM times as many.
    Raises CalibrationError when the given text is too short.
    """
    length = min(DEFAULT_LENGTH, context) if options.seqlen is None else options.seqlen
    if length > context:
        raise CalibrationError(f"seqlen is {length}; the model has {context} positions", hint=f"--seqlen {context}")
    if length < SHORTEST_SAMPLE:
        raise CalibrationError(
            f"the model has {context} positions; samples of {SHORTEST_SAMPLE} tokens are needed",
            hint="--recipe rtn needs no text",
        )
    nsamples = resolved_recipe(options).nsamples
    needed = nsamples + held_out_samples(nsamples)
    files = options.calibration or (DEFAULT_TEXT,)
    tokens = token_stream(tokenizer, files, vocab_size, render, enough=DRAWN_FROM * needed * length)
    prefix = text_prefix(tokenizer) if options.tuning.bos else NO_PREFIX
    windows = cut_windows(tokens, length, prefix)
    whole = len(windows)
    adaptable = not options.calibration and options.nsamples is None
    if adaptable and whole >= FEWEST_SAMPLES:
        needed = min(needed, whole)
    if whole < needed:
        fitting = whole * 8 // 9
        fewer = f"--nsamples {fitting}, or " if fitting else ""
        raise CalibrationError(
            f"the calibration text gives {whole} samples of {length} tokens; {needed} are needed "
            f"({nsamples} to tune on, the rest held out)",
            hint=f"give more text, or {fewer}a smaller --seqlen",
        )
    order = np.random.default_rng(options.seed).permutation(whole)[:needed]
    return Calibration(windows[order], max(1, needed // 9), prefix)


def held_out_samples(samples: int) -> int:
    """The number of held-out samples beside `samples` tuning samples."""
    return max(1, samples // 8)


def fitting_samples(
    tokenizer: Tokenizer, options: ConvertOptions, vocab_size: int, render: Render | None = None
) -> Callable[[int], int]:
    """The largest `nsamples` that the calibration text gives beside those held out, as a function of `seqlen`."""
    files, enough = options.calibration or (DEFAULT_TEXT,), DRAWN_FROM * MOST_CHOSEN * LONGEST_CHOSEN
    tokens = token_stream(tokenizer, files, vocab_size, render, enough=enough)
    prefix = text_prefix(tokenizer) if options.tuning.bos else NO_PREFIX
    return lambda length: len(cut_windows(tokens, length, prefix)) * 8 // 9


def token_stream(
    tokenizer: Tokenizer, files: Sequence[Path], vocab_size: int, render: Render | None = None, enough: int = 0
) -> NDArray[np.int64]:
    """All tokens of all documents in a row, int64 `[n]`; of a data set of the hub, those until there are `enough`.

    A plain document begins with what the tokenizer puts before a text. What it appends to one is left out: the next follows.
    Raises CalibrationError for ids that the model does not have.
    """
    parts: list[NDArray[np.int64]] = []
    prefix = text_prefix(tokenizer).ids
    for path in files:
        count = 0
        for batch in _batches(read_documents(path, render)):
            texts = [document.text for document in batch]
            before = () if batch[0].rendered else prefix
            encodings = tokenizer.encode_batch(texts, add_special_tokens=False)
            parts += [np.asarray((*before, *encoding.ids), np.int64) for encoding in encodings]
            count += sum(len(part) for part in parts[-len(batch) :])
            if enough and count >= enough and is_data_set(path):
                break
    tokens = np.concatenate(parts) if parts else np.zeros(0, np.int64)
    if tokens.size and int(tokens.max()) >= vocab_size:
        raise CalibrationError(
            f"the tokenizer gives token {int(tokens.max())}; the model has {vocab_size}",
            hint="the text holds a token that the model lacks, or tokenizer.json belongs to another model",
        )
    return tokens


def _batches(documents: Iterator[Document]) -> Iterator[list[Document]]:
    """The documents in lists of which all are rendered, or none; short ones, since a data set may be endless."""
    batch: list[Document] = []
    for document in documents:
        if batch and (document.rendered != batch[0].rendered or len(batch) == _BATCH):
            yield batch
            batch = []
        batch.append(document)
    if batch:
        yield batch
