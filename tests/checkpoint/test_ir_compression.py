"""An OpenVINO IR as a source: NNCF compresses it, and its folder is written and read like every other folder of ours."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import openvino as ov
import pytest
import torch
from random_model import CONFIGS, relative_rms, write_random_model

from ovround.artifact.manifest import check_files, read_manifest
from ovround.conversion.convert import convert
from ovround.errors import ArchitectureError, CheckpointError, MissingExtraError, OvroundError, UsageError, VerifyError
from ovround.measure.evaluation import evaluate_model
from ovround.models import from_config
from ovround.options.convert_options import ConvertOptions
from ovround.options.layer_rule import LayerRule
from ovround.runtime import LLM
from ovround.runtime.engines import open_engine

pytestmark = pytest.mark.slow

pytest.importorskip("nncf")
IDS = np.random.default_rng(5).integers(3, 320, (2, 40))


@pytest.fixture(scope="module", params=[torch.float32, torch.bfloat16], ids=["f32", "bf16"])
def ir(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder as optimum-intel exports it: one of ours without its manifest."""
    root = tmp_path_factory.mktemp("ir")
    config = {**CONFIGS["llama-0"], "hidden_size": 128, "intermediate_size": 256}
    write_random_model(root / "model", config, request.param)
    (folder,) = convert(root / "model", root / "exported", ConvertOptions(bits=16)).folders
    (folder / "ovround.json").unlink()
    return folder


@pytest.mark.parametrize(
    ("bits", "group", "sym", "error"), [(8, 128, True, 0.15), (8, 128, False, 0.15), (4, 32, False, 1.0), (4, 64, True, 1.0)]
)  # fmt: skip
def test_data_free(ir: Path, tmp_path: Path, bits: int, group: int, sym: bool, error: float) -> None:
    options = ConvertOptions(bits=bits, group_size=group, sym=sym, recipe="rtn")
    (folder,) = convert(ir, tmp_path / "out", options).folders
    manifest = read_manifest(folder)
    check_files(folder, manifest, contents=True)
    records = {record.name: record for record in manifest.weights}
    assert len(records) == 2 * 7 + 2
    record = records["model.layers.0.mlp.up_proj.weight"]
    assert (record.shape, record.bits, record.symmetric) == ((256, 128), bits, sym)
    assert record.group_size == (group if bits == 4 else 128)
    assert 0 < record.relative_error < (0.2 if bits == 4 else 0.02)
    assert records["lm_head.weight"].bits == 8
    compressed, original = (open_engine(path, exact=True, threads=1) for path in (folder, ir))
    assert 1e-4 < relative_rms(compressed.logits(IDS), original.logits(IDS)) < error
    compressed.close()
    original.close()
    assert "by NNCF" in (folder / "README.md").read_text()


def test_calibrated_and_used_like_any_folder(ir: Path, tmp_path: Path, text_file: Path) -> None:
    options = ConvertOptions(bits=4, group_size=64, nsamples=4, seqlen=32, calibration=(text_file,))
    (folder,) = convert(ir, tmp_path / "out", options).folders
    (result,) = evaluate_model(str(folder), [text_file], context=32)
    assert np.isfinite(result.perplexity)
    with LLM(folder, threads=1) as llm:
        assert llm.generate("hello", max_new_tokens=4).token_ids


def test_what_was_written_is_read_back(ir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Changes one byte of one weight, the smallest corruption."""
    save = ov.save_model

    def damaged(model: ov.Model, path: Path, **settings: bool) -> None:
        save(model, path, **settings)
        content = bytearray(path.with_suffix(".bin").read_bytes())
        content[content.index(weights[0]) + 5] ^= 1
        path.with_suffix(".bin").write_bytes(content)

    (folder,) = convert(ir, tmp_path / "whole", ConvertOptions(bits=4, group_size=64, recipe="rtn")).folders
    model = ov.Core().read_model(folder / "openvino_model.xml")
    weights = [node.data.tobytes() for node in model.get_ops() if node.get_friendly_name().endswith("q_proj.weight")]
    monkeypatch.setattr(ov, "save_model", damaged)
    with pytest.raises(VerifyError, match=r"q_proj\.weight` read back is not what was written"):
        convert(ir, tmp_path / "out", ConvertOptions(bits=4, group_size=64, recipe="rtn"))
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (ConvertOptions(bits=2), "bits is 2; NNCF compresses an OpenVINO IR to 4 or 8"),
        (ConvertOptions(formats=("onnx",)), "an OpenVINO IR cannot become onnx"),
        (ConvertOptions(lm_head_bits=4), "lm-head-bits has no meaning for an OpenVINO IR"),
        (ConvertOptions(layers=(LayerRule("q_proj", bits=8),)), "layer has no meaning for an OpenVINO IR"),
    ],
)
def test_options_without_a_counterpart_are_refused(
    ir: Path, tmp_path: Path, options: ConvertOptions, message: str
) -> None:
    with pytest.raises(UsageError) as caught:
        convert(ir, tmp_path / "out", options)
    assert message in str(caught.value)


def test_folders_that_cannot_be_compressed(ir: Path, tmp_path: Path) -> None:
    options = ConvertOptions(bits=8, recipe="rtn")
    (folder,) = convert(ir, tmp_path / "once", options).folders
    again = tmp_path / "again"
    shutil.copytree(folder, again)
    (again / "ovround.json").unlink()
    (again / "openvino_model.bin").chmod(0o644)
    with pytest.raises(CheckpointError, match="is compressed already"):
        convert(again, tmp_path / "twice", options)
    shutil.copyfile(ir / "openvino_tokenizer.xml", again / "openvino_model.xml")
    shutil.copyfile(ir / "openvino_tokenizer.bin", again / "openvino_model.bin")
    with pytest.raises(OvroundError):
        convert(again, tmp_path / "twice", options)


def test_without_nncf_the_extra_is_named(ir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(MissingExtraError) as caught:
        convert(ir, tmp_path / "out", ConvertOptions(bits=8, recipe="rtn"))
    assert caught.value.hint == "pip install 'ovround[nncf]'"


def test_the_hint_for_an_unknown_architecture_names_this_path() -> None:
    with pytest.raises(ArchitectureError) as caught:
        from_config({"model_type": "rwkv"})
    assert "optimum-cli export openvino" in str(caught.value.hint)
