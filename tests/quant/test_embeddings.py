"""Embedding and head at few bits start better than rounded, and continue end to end; at more bits they are rounded."""

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
from ovround.quant.integers.embeddings import init_embedding
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
def test_an_embedding_in_parts_is_the_embedding_as_a_whole(monkeypatch: pytest.MonkeyPatch, symmetric: bool) -> None:
    draw = torch.Generator().manual_seed(1)
    embedding, inputs = torch.randn(50, 64, generator=draw), torch.randn(200, 64, generator=draw)
    scheme, hessian = QuantScheme(3, 32, symmetric), inputs.T @ inputs
    monkeypatch.setattr("ovround.quant.integers.embeddings._ROWS_ELEMENTS", 64 * 7)
    stored = FloatTensor(embedding.numpy(), "float32")
    for given, start in (
        (None, searched(embedding, scheme, torch.ones(64))),
        (hessian, compensated(embedding, scheme, inverse_factor(hessian))),
    ):
        emitted = init_embedding("t.weight", stored, scheme, given)
        assert isinstance(emitted.weight, QTensor)
        codes = (start.latent.round() + start.zero).clamp(0, 7).view(50, 64).numpy()
        np.testing.assert_array_equal(emitted.weight.codes, codes)
        np.testing.assert_array_equal(emitted.weight.scales, start.scale.squeeze(-1).numpy())
        assert (emitted.weight.zero_points is None) == symmetric
        lost = np.linalg.norm(emitted.weight.dequantize() - embedding.numpy()) / np.linalg.norm(embedding.numpy())
        assert emitted.relative_error == pytest.approx(float(lost), rel=1e-5)
        assert emitted.offsets is not None


@pytest.mark.slow
def test_tuned_embeddings_lose_less_and_the_end_to_end_pass_continues_them(tmp_path: Path) -> None:
    few = replace(FEW, lm_head_bits=3, embedding_bits=3)  # at 4 bits a run's noise is as large as what embeddings lose
    rounded = converted(tmp_path / "rounded", replace(few, tuning=replace(few.tuning, embeddings="rounded")))
    started = converted(tmp_path / "started", few)
    continued = converted(tmp_path / "continued", replace(few, tuning=replace(few.tuning, end_to_end_steps=20)))
    kl_nats = [manifest.quality.kl_nats for manifest in (continued, started, rounded) if manifest.quality]
    assert kl_nats == sorted(kl_nats)
    assert len(set(kl_nats)) == 3
    name = "model.embed_tokens.weight"
    assert len({digests(manifest)[name] for manifest in (rounded, started, continued)}) == 3


@pytest.mark.slow
def test_embeddings_of_many_bits_are_rounded(tmp_path: Path) -> None:
    wide = replace(FEW, lm_head_bits=8, embedding_bits=8)
    assert digests(converted(tmp_path / "a", wide)) == digests(
        converted(tmp_path / "b", replace(wide, tuning=replace(wide.tuning, embeddings="rounded")))
    )


@pytest.mark.slow
def test_a_head_of_its_own_is_compensated_whether_tied_or_not(
    tiny_source: Path, text_file: Path, tmp_path: Path
) -> None:
    """The demo model's head is tied: with other bits than the embedding it is a weight of its own."""
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


@pytest.mark.slow
def test_stopped_after_the_blocks_it_continues_to_the_same_bytes(tmp_path: Path) -> None:
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
