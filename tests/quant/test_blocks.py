"""The block pass on the demo model: tuning helps, results repeat, and the measured quality is right."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from passes_of_job import block_events, emitted, first_block

from ovround.artifact.manifest import BlockRecord, Quality
from ovround.conversion.convert import Job, prepare
from ovround.measure.torch_model import CheckpointWeights
from ovround.models.torch_ops import TorchOps
from ovround.options.convert_options import ConvertOptions
from ovround.options.layer_rule import LayerRule
from ovround.options.tuning_options import TuningOptions
from ovround.progress import Progress
from ovround.quant.emitted import Emitted
from ovround.tensors.qtensor import QTensor

TINY = ConvertOptions(group_size=32, iters=4, nsamples=8, seqlen=32, tuning=TuningOptions(batch_size=4))


@pytest.fixture
def job(tiny_source: Path, text_file: Path, tmp_path: Path) -> Job:
    return prepare(str(tiny_source), tmp_path / "out", replace(TINY, calibration=(text_file,)))


@pytest.mark.parametrize("symmetric", [True, False], ids=["sym", "asym"])
@pytest.mark.parametrize("bits", [2, 3, 4, 8])
def test_a_few_steps_lower_the_held_out_loss_of_the_demo_model(tmp_path: Path, bits: int, symmetric: bool) -> None:
    steps = 100 if bits == 8 else 50  # a long step is coarse beside what 8 bits leave to gain
    options = ConvertOptions(
        bits=bits, group_size=64, sym=symmetric, iters=steps, nsamples=16, seqlen=64, tuning=TuningOptions(batch_size=4)
    )
    record = first_block(prepare("demo", tmp_path / "out", options)).record
    assert record is not None
    assert record.steps == steps
    assert 0 < record.loss_after < record.loss_before


def test_every_tensor_is_given_once_in_the_models_order(job: Job) -> None:
    given = block_events(job)
    names = [event.name for event in given if isinstance(event, Emitted)]
    expected = ["model.embed_tokens.weight"]
    for layer in range(2):
        expected += job.decoder.tensors(layer)
    assert names == [*expected, "model.norm.weight", "lm_head.weight"]
    blocks = [event.index for event in given if isinstance(event, BlockRecord)]
    assert blocks == [0, 1]


def test_two_runs_give_the_same_integers(job: Job) -> None:
    first, second = emitted(job), emitted(job)
    assert {name: event.weight.digest() for name, event in first.items()} == {
        name: event.weight.digest() for name, event in second.items()
    }
    assert {name: event.relative_error for name, event in first.items()} == {
        name: event.relative_error for name, event in second.items()
    }


def test_another_seed_gives_other_integers(tmp_path: Path) -> None:
    options = ConvertOptions(bits=2, group_size=64, iters=10, nsamples=8, seqlen=32)
    digests = [
        first_block(prepare("demo", tmp_path / str(seed), replace(options, seed=seed))).digest() for seed in (1, 2)
    ]
    assert digests[0] != digests[1]


def test_quality_is_that_of_the_emitted_weights(job: Job) -> None:
    """Perplexity and divergence are computed again from the emitted tensors, by one pass over the whole model."""
    given = block_events(job)
    (quality,) = [event for event in given if isinstance(event, Quality)]
    assert job.calibration is not None
    ids = torch.from_numpy(job.calibration.samples[-job.calibration.held_out :])

    def scores(weights: dict[str, torch.Tensor] | CheckpointWeights) -> torch.Tensor:
        with torch.no_grad():
            return F.log_softmax(job.decoder.logits(TorchOps(weights), ids)[:, :-1], -1).flatten(0, 1)

    quantised = scores({event.name: torch.from_numpy(values(event)) for event in given if isinstance(event, Emitted)})
    original = scores(CheckpointWeights(job.checkpoint))
    following = ids[:, 1:].flatten()
    # float32 sums of some hundred tokens in batches of another size
    assert quality.tokens == following.numel()
    assert quality.perplexity_original == pytest.approx(float(F.nll_loss(original, following).exp()), rel=1e-5)
    assert quality.perplexity_quantised == pytest.approx(float(F.nll_loss(quantised, following).exp()), rel=1e-5)
    divergence = (original.exp() * (original - quantised)).sum(-1).mean()
    assert quality.kl_nats == pytest.approx(float(divergence), rel=1e-4)
    assert quality.perplexity_quantised != quality.perplexity_original


def values(event: Emitted) -> np.ndarray[tuple[int, ...], np.dtype[np.float32]]:
    return event.weight.dequantize() if isinstance(event.weight, QTensor) else event.weight.float32()


def test_relative_errors_are_those_of_the_emitted_weights(job: Job) -> None:
    for name, event in emitted(job).items():
        original = job.checkpoint.read(name).float32()
        expected = np.linalg.norm(original - values(event)) / np.linalg.norm(original)
        assert event.relative_error == pytest.approx(float(expected), rel=1e-5)  # float32 norms
        assert (event.relative_error > 0) == isinstance(event.weight, QTensor)


def test_modules_left_in_float_come_through_untouched(tiny_source: Path, text_file: Path, tmp_path: Path) -> None:
    rules = (LayerRule(r"layers\.0\.", bits=16), LayerRule("v_proj", bits=8), LayerRule("lm_head", bits=16))
    options = replace(TINY, calibration=(text_file,), layers=rules)
    job = prepare(str(tiny_source), tmp_path / "out", options)
    assert job.calibration is not None, "block 1 is still tuned"
    actual = emitted(job)
    for name, event in actual.items():
        kept = "layers.0." in name and "v_proj" not in name
        if kept or "norm" in name or "bias" in name or "lm_head" in name:
            assert event.weight.digest() == job.checkpoint.read(name).digest(), name
        else:
            assert isinstance(event.weight, QTensor)
            assert event.weight.bits == (8 if "v_proj" in name or "embed" in name else 4), name


def test_tuning_is_decided_by_all_blocks(tiny_source: Path, text_file: Path, tmp_path: Path) -> None:
    """A first block in float must not turn off the tuning of the others."""
    options = replace(TINY, calibration=(text_file,), layers=(LayerRule(r"layers\.0\.", bits=16),))
    given = block_events(prepare(str(tiny_source), tmp_path / "o", options))
    records = [event for event in given if isinstance(event, BlockRecord)]
    assert [(record.index, record.steps) for record in records] == [(1, 4)]


@pytest.mark.parametrize(
    "options", [replace(TINY, iters=0), ConvertOptions(group_size=32, recipe="rtn"), ConvertOptions(bits=16)]
)
def test_without_tuning_no_text_is_read(tiny_source: Path, tmp_path: Path, options: ConvertOptions) -> None:
    missing = replace(options, calibration=(tmp_path / "no-such-text.txt",))
    job = prepare(str(tiny_source), tmp_path / "out", missing)
    assert job.calibration is None
    kinds = {type(event) for event in block_events(job)}
    assert kinds == {Emitted}


def test_progress_counts_every_step_and_block(job: Job) -> None:
    reported: list[Progress] = []
    block_events(job, reported.append)
    steps = [(progress.block, progress.step) for progress in reported if progress.steps]
    assert steps == [(block, step) for block in (0, 1) for step in (1, 2, 3, 4)]
    done = [progress for progress in reported if not progress.steps]
    assert [(progress.block, progress.blocks) for progress in done] == [(1, 2), (2, 2)]
    assert all(progress.loss_before is not None and progress.loss_after is not None for progress in done)


def test_blocks_of_a_group_are_tuned_to_the_output_of_the_last(tmp_path: Path) -> None:
    """Six blocks, four at once: each block of a group has the group's loss, and the rest makes a smaller group."""
    options = ConvertOptions(
        bits=2, group_size=64, iters=20, nsamples=24, seqlen=64, tuning=TuningOptions(batch_size=4, block_group_size=4)
    )
    reported: list[Progress] = []
    given = block_events(prepare("demo", tmp_path / "out", options), reported.append)
    records = [event for event in given if isinstance(event, BlockRecord)]
    assert [record.index for record in records] == [0, 1, 2, 3, 4, 5]
    losses = [(record.loss_before, record.loss_after) for record in records]
    assert losses == [losses[0]] * 4 + [losses[4]] * 2
    assert losses[0] != losses[4]
    assert all(after < before for before, after in losses)
    assert [progress.block for progress in reported if not progress.steps] == [1, 2, 3, 4, 5, 6]
