"""Perplexity, divergence and agreement against closed forms, and how text becomes windows."""

from __future__ import annotations

import math
import shutil
from pathlib import Path

import numpy as np
import pytest
from checkpoint_writer import tiny_config, write_checkpoint
from numpy.typing import NDArray

from ovround.errors import CalibrationError, UsageError
from ovround.measure import perplexity
from ovround.measure.evaluation import evaluate_model
from ovround.measure.perplexity import cut_samples, evaluate
from ovround.texts import Prefix

VOCAB = 7
IDS = np.random.default_rng(0).integers(0, VOCAB, (5, 9))
Floats = NDArray[np.float32]


def uniform(ids: NDArray[np.int64]) -> Floats:
    return np.zeros((*ids.shape, VOCAB), np.float32)


def foreseeing(ids: NDArray[np.int64]) -> Floats:
    """Logits that give the right next token probability 1 / (1 + 6 / e^2)."""
    following = np.roll(ids, -1, axis=1)
    return (2 * np.eye(VOCAB)[following]).astype(np.float32) + 300  # softmax does not mind the offset


def test_closed_forms() -> None:
    right = math.exp(2) / (math.exp(2) + VOCAB - 1)
    wrong = (1 - right) / (VOCAB - 1)
    alone = evaluate(IDS, uniform, VOCAB)
    assert alone.perplexity == pytest.approx(VOCAB, rel=1e-6)  # float32 logarithms
    assert (alone.accuracy, alone.reference_accuracy) == (np.mean(IDS[:, 1:] == 0), None)
    result = evaluate(IDS, uniform, VOCAB, foreseeing)
    assert result.tokens == 5 * 8
    assert result.reference_perplexity == pytest.approx(1 / right, rel=1e-5)  # float32 logits of 300
    kl = right * math.log(right * VOCAB) + (VOCAB - 1) * wrong * math.log(wrong * VOCAB)
    assert result.kl_nats == pytest.approx(kl, rel=1e-5)
    assert (result.accuracy, result.reference_accuracy) == (alone.accuracy, 1.0)
    assert result.top1_agreement == np.mean(IDS[:, 1:] == 0)  # the uniform model's likeliest token is the first


def test_batches_do_not_change_the_result(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = evaluate(IDS, foreseeing, VOCAB, uniform)
    reports: list[tuple[int, int]] = []
    monkeypatch.setattr(perplexity, "_BATCH_LOGITS", 2 * IDS.shape[1] * VOCAB)
    parts = evaluate(IDS, foreseeing, VOCAB, uniform, lambda done, all_: reports.append((done, all_)))
    assert reports == [(2, 5), (4, 5), (5, 5)]
    assert parts.perplexity == pytest.approx(whole.perplexity, rel=1e-12)
    assert parts.kl_nats == pytest.approx(whole.kl_nats, rel=1e-12)


def test_what_stands_before_a_text_is_not_scored() -> None:
    """Neither where a sample begins nor where a document does; what it predicts is."""
    prefix = Prefix((0,), ("<s>",))
    ids = np.where(IDS == 0, 1, IDS)
    ids[:, 0] = ids[2, 4] = 0

    def spoiled(ids: NDArray[np.int64]) -> Floats:
        """Sure of a wrong token wherever the next is of the prefix."""
        logits = foreseeing(ids)
        logits[np.roll(ids, -1, axis=1) == 0] = [-1e3, *[1e3] * (VOCAB - 1)]
        return logits

    clean = evaluate(np.where(ids == 0, 1, ids), foreseeing, VOCAB, foreseeing)
    result = evaluate(ids, spoiled, VOCAB, foreseeing, prefix=prefix)
    assert result.tokens == 5 * 8 - 1
    assert (result.perplexity, result.accuracy) == (pytest.approx(clean.perplexity, rel=1e-5), 1.0)
    assert (result.kl_nats, result.top1_agreement) == (pytest.approx(0, abs=1e-9), 1.0)
    assert evaluate(ids, spoiled, VOCAB).perplexity > 1e9, "scored, it would show"


def test_windows_drop_the_remainder() -> None:
    assert cut_samples(np.arange(11), 4, "x").tolist() == [[0, 1, 2, 3], [4, 5, 6, 7]]
    with pytest.raises(CalibrationError, match="`x` has 3 tokens; one sample needs 4"):
        cut_samples(np.arange(3), 4, "x")


@pytest.mark.parametrize("bos", [True, False])
def test_perplexity_is_transformers_own(tiny_source: Path, text_file: Path, bos: bool) -> None:
    """The same windows through transformers' model and loss: each with <s> before it, or as the text is cut in papers."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model = AutoModelForCausalLM.from_pretrained(tiny_source, dtype=torch.float32)
    ids = AutoTokenizer.from_pretrained(tiny_source)(text_file.read_text(encoding="utf-8")).input_ids
    if bos:
        text = torch.tensor(ids[1 : 1 + (len(ids) - 1) // 127 * 127]).view(-1, 127)
        windows = torch.cat([torch.full((len(text), 1), ids[0]), text], dim=1)
    else:
        windows = torch.tensor(ids[: len(ids) // 128 * 128]).view(-1, 128)
    with torch.no_grad():
        loss = model(windows, labels=windows).loss  # a mean over all windows: each predicts as many tokens
    (measured,) = evaluate_model(str(tiny_source), [text_file], context=128, bos=bos)
    assert measured.perplexity == pytest.approx(float(loss.exp()), rel=2e-6)  # float32 in another order
    assert (measured.context, measured.prefix) == (128, ("<s>",) if bos else ())
    assert measured.tokens == windows.shape[0] * 127


def test_what_cannot_be_evaluated(tiny_source: Path, text_file: Path, tmp_path: Path) -> None:
    for context in (1, 257):
        with pytest.raises(UsageError, match=f"context is {context}; the model allows 2 to 256"):
            evaluate_model(str(tiny_source), [text_file], context=context)
    with pytest.raises(CalibrationError, match="does not exist"):
        evaluate_model(str(tiny_source), [tmp_path / "none.txt"])
    other = write_checkpoint(tmp_path / "other", tiny_config(vocab_size=400))
    with pytest.raises(CalibrationError, match="has 400 tokens, the model 320"):
        evaluate_model(str(tiny_source), [text_file], reference=str(other))


def test_a_tokenizer_of_another_model_is_refused(tiny_source: Path, tmp_path: Path) -> None:
    small = write_checkpoint(tmp_path / "small", tiny_config(vocab_size=100))
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copyfile(tiny_source / name, small / name)
    text = tmp_path / "text.txt"
    text.write_text("the end of the story " * 20)
    with pytest.raises(CalibrationError, match=r"the tokenizer gives token \d+; the model has 100"):
        evaluate_model(str(small), [text], context=16)
