"""Codebooks from a checkpoint to an aqlm folder: what is refused and written, resuming, and other loaders."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from checkpoint_writer import tiny_config

from ovround.artifact.manifest import read_manifest
from ovround.checkpoint import open_source
from ovround.conversion.convert import convert
from ovround.errors import UsageError
from ovround.exporters.checkpoints import CheckpointExporter
from ovround.measure.evaluation import open_logits
from ovround.models import from_config
from ovround.options.budget import Budget
from ovround.options.convert_options import ConvertOptions
from ovround.options.layer_rule import LayerRule
from ovround.options.tuning_options import TuningOptions
from ovround.progress import Progress
from ovround.quant.plan import weight_shapes
from ovround.tensors.codebook_tensor import CodebookTensor
from ovround.tensors.scheme import Codebooks

pytestmark = pytest.mark.slow

Q_PROJ = "model.layers.0.self_attn.q_proj.weight"


@pytest.fixture
def options(text_file: Path) -> ConvertOptions:
    return ConvertOptions(
        formats=("aqlm",),
        codebooks=Codebooks(2, 3, 4),
        iters=4,
        nsamples=8,
        seqlen=32,
        tuning=TuningOptions(batch_size=4, end_to_end_steps=2, pv_steps=2),
        pv=True,
        calibration=(text_file,),
    )


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"codebooks": Codebooks(0, 8, 8)}, "codebooks 0x8:8: count is 0; 1 to 16 is allowed"),
        ({"codebooks": Codebooks(2, 8, 5)}, "codebooks 2x8:5: vector size is 5; allowed: 2, 4, 8, 16, 32"),
        ({"codebooks": Codebooks(2, 17, 8)}, "codebooks 2x17:8: bits is 17; 1 to 16 is allowed"),
        ({"formats": ("auto_round",)}, "codebooks are given, which format auto_round cannot hold"),
        ({"formats": ("aqlm", "awq")}, "codebooks are given, which format awq cannot hold"),
        ({"bits": 2}, "bits is about integers, yet weights become codebooks"),
        ({"budget": Budget(2.5, "bits")}, "budget is about integers, yet weights become codebooks"),
        ({"tuning": TuningOptions(scales="clipped")}, "scales is about integers, yet weights become codebooks"),
        ({"recipe": "rtn", "pv": False}, "codebooks are learned from text, yet nothing is tuned"),
        (
            {"formats": ("onnx",), "codebooks": None, "tuning": TuningOptions(learn_codes=False)},
            "learn_codes is about codebooks, yet weights become integers",
        ),
        ({"pv": False, "tuning": TuningOptions(pv_steps=3)}, "pv_steps is a setting of --pv, which is not given"),
    ],
)
def test_settings_that_contradict_each_other(changes: dict[str, Any], said: str) -> None:
    with pytest.raises(UsageError) as caught:
        ConvertOptions(**{"formats": ("aqlm",), "codebooks": Codebooks(2, 4, 8), "pv": True, **changes})
    assert str(caught.value) == said


def test_a_share_of_changes_is_above_zero() -> None:
    with pytest.raises(UsageError, match=r"pv_changes is 0\.0; above 0, at most 1, is allowed"):
        TuningOptions(pv_changes=0.0)


@pytest.mark.parametrize("text", ["2x8", "2x8x8", "x8:8", "aqlm", ""])
def test_codebooks_are_count_bits_and_vector_size(text: str) -> None:
    assert Codebooks.parse("2x8:8") == Codebooks(2, 8, 8)
    with pytest.raises(UsageError, match=f"codebooks is `{text}`; COUNTxBITS:VECTOR_SIZE is needed"):
        Codebooks.parse(text)


def test_codebooks_that_cost_more_than_they_serve_are_refused_with_the_sum(tmp_path: Path, tiny_source: Path) -> None:
    with pytest.raises(UsageError) as caught:
        convert(tiny_source, tmp_path / "out", ConvertOptions(formats=("aqlm",), codebooks=Codebooks(1, 16, 8)))
    decoder = from_config(tiny_config())
    shapes = [decoder.tensors(0)[f"{name}.weight"] for name in decoder.linears(0)]
    count = sum(rows * columns for rows, columns in shapes)
    entries = len(shapes) * 65536 * 8 * 16 / count
    total = 2 + entries + 16 * sum(rows for rows, _ in shapes) / count
    assert f"{total:.2f} bits a weight: 2.00 for codes and {entries:.2f} for 65536 entries a layer" in str(caught.value)
    assert caught.value.hint == "smaller vectors, or integers with --bits"
    assert not (tmp_path / "out").exists()


def test_an_integer_grid_in_an_aqlm_folder_is_refused(
    tmp_path: Path, tiny_source: Path, options: ConvertOptions
) -> None:
    with pytest.raises(
        UsageError, match=r"aqlm holds no integer grids, yet `model\.layers\.0\.mlp\.up_proj` has 4 bits"
    ):
        convert(
            tiny_source, tmp_path / "out", replace(options, layers=(LayerRule("0.mlp.up_proj", bits=4, group_size=32),))
        )


def test_the_folder_holds_what_was_tuned(tmp_path: Path, tiny_source: Path, options: ConvertOptions) -> None:
    rule = LayerRule("1.mlp.down_proj", bits=16)
    reported: list[Progress] = []
    manifest = convert(tiny_source, tmp_path / "q", replace(options, layers=(rule,)), reported.append).manifests[0]
    config = json.loads((tmp_path / "q" / "config.json").read_text())["quantization_config"]
    assert config.pop("linear_weights_not_to_quantize")[:2] == [
        "model.layers.1.mlp.down_proj", "model.layers.1.mlp.down_proj.weight",
    ]  # fmt: skip
    assert config == {
        "quant_method": "aqlm", "in_group_size": 4, "out_group_size": 1, "num_codebooks": 2, "nbits_per_codebook": 3,
    }  # fmt: skip
    source, records = open_source(tmp_path / "q"), {weight.name: weight for weight in manifest.weights}
    assert read_manifest(tmp_path / "q").weights == manifest.weights
    record = records[Q_PROJ]
    weight = source.read(Q_PROJ, (128, 64))  # type: ignore[call-arg]
    assert isinstance(weight, CodebookTensor)
    assert (record.codebooks, record.bits, record.group_size, record.sha256) == ("2x3", 2, 4, weight.digest())
    assert record.size_bytes == 128 * 16 * 2 * 3 // 8 + 2 * 8 * 4 * 2 + 128 * 2
    assert records["model.layers.1.mlp.down_proj.weight"].codebooks == ""
    stages = [progress.stage for progress in reported if progress.stage in ("codebooks", "end-to-end", "pv-tuning")]
    assert [stages.count(stage) for stage in ("codebooks", "end-to-end", "pv-tuning")] == [13, 3, 3]
    assert "codebooks 2x3 of vectors of 4" in (tmp_path / "q" / "README.md").read_text()


def test_tuning_lowers_the_losses_that_it_tells(tmp_path: Path, tiny_source: Path, options: ConvertOptions) -> None:
    reported: list[Progress] = []
    longer = replace(
        options,
        iters=10,
        nsamples=24,
        tuning=replace(options.tuning, end_to_end_steps=10, pv_steps=20, straight_through=False),
    )
    manifest = convert(tiny_source, tmp_path / "q", longer, reported.append).manifests[0]
    assert all(block.loss_after <= block.loss_before for block in manifest.blocks)
    assert any(block.loss_after < block.loss_before for block in manifest.blocks)
    losses = [progress.loss_after for progress in reported if progress.stage in ("end-to-end", "pv-tuning")]
    assert losses[10] < losses[0]  # type: ignore[operator]
    assert losses[-1] < losses[11] == pytest.approx(losses[10], rel=0.02)  # type: ignore[operator]
    assert manifest.quality is not None
    assert manifest.quality.kl_nats == pytest.approx(losses[-1], rel=0.1)


@pytest.mark.parametrize("stage", ["codebooks", "pv-tuning"])
def test_stopped_anywhere_it_continues_to_the_same_bytes(
    tmp_path: Path, tiny_source: Path, options: ConvertOptions, stage: str
) -> None:
    class Stop(Exception):  # noqa: N818
        pass

    def stop(progress: Progress) -> None:
        if progress.stage == stage and (progress.block == 1 or (progress.step == 1 and stage == "pv-tuning")):
            raise Stop

    convert(tiny_source, tmp_path / "whole", options)
    with pytest.raises(Stop):
        convert(tiny_source, tmp_path / "out", options, stop)
    assert not (tmp_path / "out").exists()
    resumed: list[str] = []
    convert(tiny_source, tmp_path / "out", options, lambda progress: resumed.append(progress.stage))
    assert "resume" in resumed
    for path in sorted((tmp_path / "whole").iterdir()):
        assert path.read_bytes() == (tmp_path / "out" / path.name).read_bytes(), path.name


def test_pv_moves_integers_too(tmp_path: Path) -> None:
    # The built-in model: what random weights gain by other levels is less than what judges it can tell.
    tuned = ConvertOptions(
        formats=("auto_round",), bits=2, group_size=32, sym=False, iters=4, nsamples=64, seqlen=32,
        tuning=TuningOptions(batch_size=8, end_to_end_steps=0),
    )  # fmt: skip
    with_pv = replace(tuned, pv=True, tuning=replace(tuned.tuning, pv_steps=10))
    manifests = [
        convert("demo", tmp_path / str(bool(options.pv)), options).manifests[0] for options in (tuned, with_pv)
    ]
    assert manifests[1].quality.kl_nats < manifests[0].quality.kl_nats  # type: ignore[union-attr]
    changed = []
    for weight in manifests[0].weights:
        if weight.group_size and weight.bits == 2:
            sources = [open_source(tmp_path / name) for name in ("False", "True")]
            parts = [source.read(weight.name, weight.shape) for source in sources]  # type: ignore[call-arg]
            changed.append((parts[0].codes != parts[1].codes).mean())  # type: ignore[union-attr]
    assert max(changed) > 0
    assert max(changed) <= 0.01 * 10  # steps


def test_transformers_loads_what_is_written(tmp_path: Path, tiny_source: Path) -> None:
    """With the package aqlm, in a process of its own: it registers operators. Kx8 takes its numba kernel, others plain torch."""
    if importlib.util.find_spec("aqlm") is None or importlib.util.find_spec("numba") is None:
        pytest.skip("aqlm or numba is not installed")
    decoder, rng = from_config(tiny_config()), np.random.default_rng(0)
    shapes, source = weight_shapes(decoder), open_source(tiny_source)
    linears = [name for layer in range(2) for name in decoder.linears(layer)]
    folders = []
    for layout in (Codebooks(2, 3, 4), Codebooks(1, 8, 8), Codebooks(2, 8, 8), Codebooks(1, 16, 8)):
        folders.append(tmp_path / str(layout))
        folders[-1].mkdir()
        exporter = CheckpointExporter("aqlm", folders[-1], decoder, tiny_source, dict.fromkeys(linears, layout))
        for name in decoder.every_tensor():
            if name.removesuffix(".weight") not in linears:
                exporter.write(name, source.read(name))  # type: ignore[call-arg]
                continue
            rows, columns = shapes[name]
            codes = rng.integers(0, 1 << layout.bits, (rows, columns // layout.vector_size, layout.count), np.uint16)
            books = rng.standard_normal((layout.count, 1 << layout.bits, 1, layout.vector_size)).astype(np.float16)
            weight = CodebookTensor(codes, books, (rng.random(rows) * 0.3).astype(np.float16))
            exporter.write(name, weight)
        exporter.finish()
        exporter.close()
        written = open_source(folders[-1])
        names = (Q_PROJ, Q_PROJ.replace("layers.0", "layers.1"))
        digests = {written.read(name, shapes[name]).digest() for name in names}  # type: ignore[arg-type,call-arg]
        assert len(digests) == len(names)
    ids = (np.arange(24, dtype=np.int64) * 7).reshape(1, 24)
    code = (
        "import sys, numpy, torch, transformers\n"
        "for folder in sys.argv[1:]:\n"
        "    model = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)\n"
        "    with torch.no_grad():\n"
        "        numpy.save(folder + '.npy', model(torch.arange(24).view(1, 24) * 7).logits.numpy())\n"
    )
    environment = {**os.environ, "NUMBA_NUM_THREADS": "1"}  # with several its kernel adds to one sum from all of them
    command = [sys.executable, "-c", code, *map(str, folders)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    assert done.returncode == 0, done.stderr[-2000:]
    for folder in folders:
        expected = open_logits(folder)(ids)
        # float32 sums in another order; one wrong code moves the logits by more than 1e-2 of the largest
        assert np.abs(np.load(f"{folder}.npy") - expected).max() < 1e-4 * np.abs(expected).max(), folder.name


def test_a_folder_of_codebooks_becomes_one_again(tmp_path: Path, tiny_source: Path, options: ConvertOptions) -> None:
    """Codes and configuration are those of the source, though no option states the codebooks."""
    short = replace(options, pv=False, iters=1, tuning=TuningOptions(end_to_end_steps=0))
    (first,) = convert(tiny_source, tmp_path / "first", short).folders
    (second,) = convert(first, tmp_path / "second", ConvertOptions(formats=("aqlm",))).folders
    for name in ("model.safetensors", "config.json"):
        assert (second / name).read_bytes() == (first / name).read_bytes(), name
