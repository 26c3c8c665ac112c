"""The end-to-end pass: it lowers the divergence or changes nothing, repeats, and is one stage of a resumable job."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from ovround.conversion.convert import Job, convert, prepare
from ovround.conversion.tuning import resolve
from ovround.errors import UsageError
from ovround.options.convert_options import ConvertOptions
from ovround.options.tuning_options import TuningOptions
from ovround.progress import Progress
from ovround.quant.passes.divergence import total_divergence

TUNED = ConvertOptions(
    formats=("onnx",),
    bits=2,
    group_size=64,
    sym=False,
    iters=8,
    nsamples=32,
    seqlen=64,
    tuning=TuningOptions(batch_size=4, end_to_end_steps=30),
)


def kl_nats(out: Path, options: ConvertOptions) -> float:
    quality = convert("demo", out, options).manifests[0].quality
    assert quality is not None
    return quality.kl_nats


@pytest.mark.slow
def test_it_lowers_the_divergence_and_norms_help(tmp_path: Path) -> None:
    without = kl_nats(tmp_path / "without", replace(TUNED, tuning=replace(TUNED.tuning, end_to_end_steps=0)))
    alone = kl_nats(tmp_path / "alone", replace(TUNED, tuning=replace(TUNED.tuning, norms=False)))
    both = kl_nats(tmp_path / "both", TUNED)
    assert both < alone < without


@pytest.mark.slow
def test_labels_raise_the_divergence(tmp_path: Path) -> None:
    hard = replace(TUNED, tuning=replace(TUNED.tuning, label_share=1.0))
    assert kl_nats(tmp_path / "soft", TUNED) < kl_nats(tmp_path / "hard", hard)


@pytest.mark.parametrize("share", [0.0, 0.3, 1.0])
def test_the_loss_and_its_gradient(share: float) -> None:
    """The divergence of all tokens, and by how much less likely their successors within a sample are."""
    draw = torch.Generator().manual_seed(0)
    ours, theirs = (torch.randn(2, 5, 7, generator=draw, dtype=torch.float64) for _ in range(2))
    tokens = torch.randint(7, (2, 5), generator=draw)
    mine, plain = (ours.clone().requires_grad_() for _ in range(2))
    log_q, log_p = plain.log_softmax(-1), theirs.log_softmax(-1)
    soft = F.kl_div(log_q, log_p, reduction="sum", log_target=True)
    expected = (1 - share) * soft + share * (entropy(log_q, tokens) - entropy(log_p, tokens))
    total = total_divergence(mine, theirs, tokens, share)
    torch.testing.assert_close(total, expected)
    (2 * total).backward()
    (2 * expected).backward()
    torch.testing.assert_close(mine.grad, plain.grad)


def entropy(logarithms: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
    return F.nll_loss(logarithms[:, :-1].flatten(0, 1), tokens[:, 1:].flatten(), reduction="sum")


def test_the_reported_divergence_is_the_measured_one(tmp_path: Path) -> None:
    reported: list[Progress] = []
    quality = convert("demo", tmp_path / "out", TUNED, reported.append).manifests[0].quality
    assert quality is not None
    losses = [progress.loss_after for progress in reported if progress.stage == "end-to-end"]
    assert len(losses) == 31
    assert losses == sorted(losses, reverse=True)  # type: ignore[type-var]
    # The command's figure leaves out each sample's last token, which has no successor in the text.
    assert quality.kl_nats == pytest.approx(losses[-1], rel=0.05)


@pytest.mark.slow
def test_stopped_between_the_passes_it_continues_to_the_same_bytes(tmp_path: Path) -> None:
    class Stop(Exception):  # noqa: N818
        pass

    def stop(progress: Progress) -> None:
        if progress.stage == "end-to-end" and progress.step == 5:
            raise Stop

    convert("demo", tmp_path / "whole", TUNED)
    with pytest.raises(Stop):
        convert("demo", tmp_path / "out", TUNED, stop)
    assert not (tmp_path / "out").exists()
    convert("demo", tmp_path / "out", TUNED)
    names = sorted(path.name for path in (tmp_path / "whole").iterdir())
    assert names == sorted(path.name for path in (tmp_path / "out").iterdir())
    for name in names:
        assert (tmp_path / "whole" / name).read_bytes() == (tmp_path / "out" / name).read_bytes(), name


@pytest.fixture
def job(tmp_path: Path) -> Job:
    return prepare("demo", tmp_path / "out", TUNED)


def test_recipes_take_it_in_proportion_up_to_a_size(job: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    def steps(end_to_end: int | None = None, **changes: Any) -> int:
        options = ConvertOptions(group_size=64, tuning=TuningOptions(end_to_end_steps=end_to_end), **changes)
        return resolve(options, job.decoder, job.plan, 0).end_to_end_steps

    assert steps() == 100
    assert steps(iters=30) == 15
    assert steps(recipe="best") == 1000
    assert steps(recipe="light") == 0
    assert steps(recipe="light", end_to_end=7) == 7
    monkeypatch.setattr("ovround.conversion.tuning.END_TO_END_WEIGHTS", 1000)
    assert (steps(), steps(end_to_end=5)) == (0, 5)


def test_nothing_to_refine_is_an_error() -> None:
    with pytest.raises(UsageError, match="end_to_end_steps is 5, yet no block is tuned"):
        ConvertOptions(recipe="rtn", tuning=TuningOptions(end_to_end_steps=5))


def test_a_share_is_a_share() -> None:
    with pytest.raises(UsageError, match=r"label_share is 1\.5; 0 to 1 is allowed"):
        ConvertOptions(tuning=TuningOptions(label_share=1.5))


@pytest.mark.slow
def test_weights_keep_their_schemes(tmp_path: Path) -> None:
    before = convert(
        "demo", tmp_path / "before", replace(TUNED, tuning=replace(TUNED.tuning, end_to_end_steps=0))
    ).manifests[0]
    after = convert("demo", tmp_path / "after", TUNED).manifests[0]
    kinds = [(w.name, w.bits, w.group_size, w.symmetric, w.shape) for w in before.weights]
    assert kinds == [(w.name, w.bits, w.group_size, w.symmetric, w.shape) for w in after.weights]
    changed = {a.name for a, b in zip(before.weights, after.weights, strict=True) if a.sha256 != b.sha256}
    assert any(name.endswith("proj.weight") for name in changed)
    assert any(name.endswith("layernorm.weight") for name in changed)
    assert "model.embed_tokens.weight" not in changed
