"""Calibration text: files to token windows. The tokenizer is the model's own, read without torch or transformers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer

from ovround.errors import CalibrationError
from ovround.options.convert_options import ConvertOptions, resolved_recipe
from ovround.texts import read_texts

DEFAULT_TEXT = Path(__file__).resolve().parents[2] / "calibration.txt"
LONGEST_DEFAULT = 2048  # tokens a window when --seqlen is not given
FEWEST_WINDOWS = 8
SHORTEST_WINDOW = 8  # tokens; `config` allows no shorter --seqlen


@dataclass(frozen=True, slots=True)
class Calibration:
    """Token windows `[S, T]` int64; the last `held_out` of them are never tuned on."""

    windows: NDArray[np.int64]
    held_out: int

    def part(self, rank: int, size: int) -> Calibration:
        """The share of process `rank` of `size`: every `size`-th window of those tuned on, and of the held-out ones."""
        if size == 1:
            return self
        train = len(self.windows) - self.held_out
        held_out = self.windows[train:][rank::size]
        return Calibration(np.concatenate([self.windows[:train][rank::size], held_out]), len(held_out))


def calibrate(tokenizer: Tokenizer, options: ConvertOptions, context: int, vocab_size: int) -> Calibration:
    """Cut the calibration text into windows for a model with `context` positions.

    Each file is tokenised document by document, the tokens are joined and cut into windows of `seqlen`, and windows are
    drawn from all of them with the seed; one in eight beyond `nsamples` is held out. With the built-in text, as many
    windows as it gives are used. Raises CalibrationError when the given text is too short.
    """
    length = min(LONGEST_DEFAULT, context) if options.seqlen is None else options.seqlen
    if length > context:
        raise CalibrationError(f"seqlen is {length}; the model has {context} positions", hint=f"--seqlen {context}")
    if length < SHORTEST_WINDOW:
        raise CalibrationError(
            f"the model has {context} positions; windows of {SHORTEST_WINDOW} tokens are needed",
            hint="--recipe rtn needs no text",
        )
    tokens = token_stream(tokenizer, options.calibration or (DEFAULT_TEXT,), vocab_size)
    whole = len(tokens) // length
    nsamples = resolved_recipe(options).nsamples
    wanted = nsamples + held_out_windows(nsamples)
    adaptable = not options.calibration and options.nsamples is None
    if adaptable and whole >= FEWEST_WINDOWS:
        wanted = min(wanted, whole)
    if whole < wanted:
        fitting = whole * 8 // 9
        fewer = f"--nsamples {fitting}, or " if fitting else ""
        raise CalibrationError(
            f"the calibration text gives {whole} windows of {length} tokens; {wanted} are needed "
            f"({nsamples} to tune on, the rest held out)",
            hint=f"give more text, or {fewer}a smaller --seqlen",
        )
    order = np.random.default_rng(options.seed).permutation(whole)[:wanted]
    windows = tokens[: whole * length].reshape(whole, length)[order]
    return Calibration(windows, max(1, wanted // 9))


def held_out_windows(windows: int) -> int:
    """How many windows are kept from tuning beside `windows`."""
    return max(1, windows // 8)


def token_stream(tokenizer: Tokenizer, files: Sequence[Path], vocab_size: int) -> NDArray[np.int64]:
    """All tokens of all documents one after the other, int64 `[n]`; raises CalibrationError for ids that the model does not have."""
    texts = [text for path in files for text in read_texts(path)]
    encoded = [np.asarray(encoding.ids, np.int64) for encoding in tokenizer.encode_batch(texts)]
    tokens = np.concatenate(encoded) if encoded else np.zeros(0, np.int64)
    if tokens.size and int(tokens.max()) >= vocab_size:
        raise CalibrationError(
            f"the tokenizer gives token {int(tokens.max())}; the model has {vocab_size}",
            hint="tokenizer.json belongs to another model",
        )
    return tokens
