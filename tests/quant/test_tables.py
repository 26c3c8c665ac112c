"""Embedding and head on few levels: begun better than rounded, continued end to end, and left alone where nothing is to be gained."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from ovround.artifact.manifest import Manifest
from ovround.conversion.convert import convert
from ovround.options.convert_options import ConvertOptions
from ovround.options.tuning_options import TuningOptions
from ovround.quant.integers.embeddings import begin_table
from ovround.quant.integers.initial_grid import compensated, inverse_factor, searched
from ovround.tensors.float_tensor import FloatTensor
from ovround.tensors.qtensor import QTensor
from ovround.tensors.scheme import QuantScheme

FEW = ConvertOptions(
    formats=("onnx",),
    bits=4,
    group_size=64,
    iters=20,
    nsamples=32,
    seqlen=64,
    tuning=TuningOptions(batch_size=8, end_to_end_steps=0),
    lm_head_bits=4,
    embedding_bits=4,
)


def converted(out: Path, options: ConvertOptions, source: str | Path = "demo") -> Manifest:
    return convert(source, out, options).manifests[0]


def digests(manifest: Manifest) -> dict[str, str]:
    return {weight.name: weight.sha256 for weight in manifest.weights}


@pytest.mark.parametrize("symmetric", [True, False], ids=["sym", "asym"])
def test_a_table_in_parts_is_the_table_as_a_whole(monkeypatch: pytest.MonkeyPatch, symmetric: bool) -> None:
    draw = torch.Generator().manual_seed(1)
    table, inputs = torch.randn(50, 64, generator=draw), torch.randn(200, 64, generator=draw)
    scheme, moments = QuantScheme(3, 32, symmetric), inputs.T @ inputs
    monkeypatch.setattr("ovround.quant.integers.embeddings._ROWS_ELEMENTS", 64 * 7)
    stored = FloatTensor(table.numpy(), "float32")
    for given, start in (
        (None, searched(table, scheme, torch.ones(64))),
        (moments, compensated(table, scheme, inverse_factor(moments))),
    ):
        emitted = begin_table("t.weight", stored, scheme, given)
        assert isinstance(emitted.weight, QTensor)
        codes = (start.latent.round() + start.zero).clamp(0, 7).view(50, 64).numpy()
        np.testing.assert_array_equal(emitted.weight.codes, codes)
        np.testing.assert_array_equal(emitted.weight.scales, start.scale.squeeze(-1).numpy())
        assert (emitted.weight.zero_points is None) == symmetric
        lost = np.linalg.norm(emitted.weight.dequantize() - table.numpy()) / np.linalg.norm(table.numpy())
        assert emitted.relative_error == pytest.approx(float(lost), rel=1e-5)
        assert emitted.offsets is not None


def test_tuned_tables_lose_less_and_the_last_pass_takes_them_on(tmp_path: Path) -> None:
    few = replace(FEW, lm_head_bits=3, embedding_bits=3)  # at 4 bits one run's chance is as large as what tables lose
    rounded = converted(tmp_path / "rounded", replace(few, tuning=replace(few.tuning, embeddings="rounded")))
    begun = converted(tmp_path / "begun", few)
    taken_on = converted(tmp_path / "taken-on", replace(few, tuning=replace(few.tuning, end_to_end_steps=20)))
    kl_nats = [one.quality.kl_nats for one in (taken_on, begun, rounded) if one.quality]
    assert kl_nats == sorted(kl_nats)
    assert len(set(kl_nats)) == 3
    name = "model.embed_tokens.weight"
    assert len({digests(one)[name] for one in (rounded, begun, taken_on)}) == 3


def test_wide_tables_are_rounded(tmp_path: Path) -> None:
    wide = replace(FEW, lm_head_bits=8, embedding_bits=8)
    assert digests(converted(tmp_path / "a", wide)) == digests(
        converted(tmp_path / "b", replace(wide, tuning=replace(wide.tuning, embeddings="rounded")))
    )


def test_a_head_of_its_own_is_compensated_whether_tied_or_not(
    tiny_source: Path, text_file: Path, tmp_path: Path
) -> None:
    """The demo model's head is tied: with other bits than the embedding it is a table of its own."""
    own = replace(FEW, lm_head_bits=3, tuning=replace(FEW.tuning, end_to_end_steps=5))
    tied = converted(tmp_path / "tied", own)
    rounded = converted(
        tmp_path / "rounded", replace(own, tuning=replace(own.tuning, embeddings="rounded", end_to_end_steps=0))
    )
    assert digests(tied)["lm_head.weight"] != digests(rounded)["lm_head.weight"]
    assert tied.quality is not None
    assert rounded.quality is not None
    assert tied.quality.kl_nats < rounded.quality.kl_nats
    untied = replace(own, group_size=32, calibration=(text_file,), nsamples=8, seqlen=32)
    with_own_head = converted(tmp_path / "untied", untied, tiny_source)
    assert {weight.name: weight.bits for weight in with_own_head.weights}["lm_head.weight"] == 3


def test_stopped_behind_the_blocks_it_continues_to_the_same_bytes(tmp_path: Path) -> None:
    options = replace(FEW, tuning=replace(FEW.tuning, end_to_end_steps=6))
    whole = digests(converted(tmp_path / "whole", options))

    class Stop(Exception):  # noqa: N818
        pass

    def stop(progress: object) -> None:
        if getattr(progress, "stage", None) == "end-to-end":
            raise Stop

    with pytest.raises(Stop):
        convert("demo", tmp_path / "out", options, stop)
    assert digests(converted(tmp_path / "out", options)) == whole
