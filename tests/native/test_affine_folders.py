"""A GGUF file of K-quants through `convert --native-weights` and both engines: every number is kept, and computed with."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from gguf import GGMLQuantizationType, quants
from gguf_blocks import sized_blocks
from gguf_writer import write_model
from native_library import built
from random_model import CONFIGS, logits_of, relative_rms, write_random_model
from typer.testing import CliRunner

from ovround.artifact.manifest import read_manifest
from ovround.checkpoint.gguf.affine_blocks import affine_tensor
from ovround.cli.app import app
from ovround.conversion.convert import convert
from ovround.errors import VerifyError
from ovround.exporters.formats import open_reader
from ovround.options.convert_options import ConvertOptions
from ovround.runtime import LLM
from ovround.runtime.engines import onnx_operator
from ovround.runtime.engines.native import operator as native_operator
from ovround.runtime.engines.native.library import ExpandedWeightsWarning
from ovround.tensors.affine_tensor import AffineTensor

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]  # the first test builds
FORMATS = ("openvino", "onnx")
IDS = np.array([[3, 9, 27, 5, 11, 2, 40, 7], [8, 1, 30, 12, 6, 60, 4, 19]])
# relative RMS of logits: float32, weights rounded to float16, activations of 8 bits
EXACT, FLOAT16, LEVELS = 2e-5, 2e-3, 0.1
CONFIG = {
    **CONFIGS["llama-0"], "hidden_size": 256, "intermediate_size": 512, "num_attention_heads": 4, "num_key_value_heads": 2,
    "head_dim": 64, "num_hidden_layers": 2, "mlp_bias": False, "attention_bias": False, "rope_scaling": None,
}  # fmt: skip
KINDS = {
    "q_proj": "Q4_K", "k_proj": "Q5_K", "v_proj": "Q6_K", "o_proj": "Q3_K", "gate_proj": "Q5_0", "up_proj": "Q5_0",
    "down_proj": "Q2_K", "embed_tokens": "Q6_K", "lm_head": "Q4_1",
}  # fmt: skip


def write_gguf(folder: Path, *, tied: bool) -> tuple[Any, dict[str, AffineTensor]]:
    """A random Llama in `folder`; returns the model with the numbers that its blocks stand for, and those blocks by name."""
    config = {**CONFIG, "tie_word_embeddings": tied}
    model = write_random_model(folder, config)
    tensors: dict[str, AffineTensor] = {}
    stored: dict[str, Any] = {}
    for number, (name, parameter) in enumerate(model.named_parameters()):
        kind = next((KINDS[part] for part in KINDS if part in name), None)
        if kind is None:
            stored[name] = parameter.detach().numpy()
            continue
        stored[name] = sized_blocks(kind, tuple(parameter.shape), number)
        tensors[name] = affine_tensor(stored[name], kind)
        with torch.no_grad():
            parameter.copy_(torch.from_numpy(quants.dequantize(stored[name], GGMLQuantizationType[kind])))
    names = {"q_proj": "attn_q", "k_proj": "attn_k", "v_proj": "attn_v", "o_proj": "attn_output", "gate_proj": "ffn_gate",
             "up_proj": "ffn_up", "down_proj": "ffn_down", "embed_tokens": "token_embd", "lm_head": "output"}  # fmt: skip
    kinds = {f"{names[part]}.weight": kind for part, kind in KINDS.items()}
    write_model(folder / "model.gguf", model.config.to_dict(), stored, kinds)
    (folder / "model.safetensors").unlink()
    return model, tensors


@pytest.fixture(scope="module", params=[False, True], ids=["untied", "tied"])
def made(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """(folders by format, logits, blocks by name)"""
    folder = tmp_path_factory.mktemp("gguf")
    model, tensors = write_gguf(folder / "source", tied=request.param)
    options = ConvertOptions(formats=FORMATS, native_weights=True)
    done = convert(folder / "source" / "model.gguf", folder / "out", options)
    return dict(zip(FORMATS, done.folders, strict=True)), logits_of(model, IDS), tensors


def use_libraries(monkeypatch: pytest.MonkeyPatch, *, installed: bool) -> None:
    paths = (native_operator._LIBRARY, onnx_operator.LIBRARY)
    for module, name in zip((native_operator, onnx_operator), paths, strict=True):
        path = built() / name if installed else None
        monkeypatch.setattr(module, "library_path", lambda path=path: path)


@pytest.mark.parametrize("format_name", FORMATS)
def test_every_number_of_the_file_is_kept(made: Any, format_name: str) -> None:
    folders, _, tensors = made
    manifest = read_manifest(folders[format_name])
    records = {record.name: record for record in manifest.weights}
    reader = open_reader(format_name, folders[format_name], records)
    for name, tensor in tensors.items():
        record = records[name]
        assert (record.sha256, record.affine, record.relative_error) == (tensor.digest(), tensor.scheme.spec, 0), name
        assert reader.read(name).digest() == tensor.digest()
    text = CliRunner().invoke(app, ["inspect", str(folders[format_name])]).stdout
    for kind in ("4:32/256-m", "6:16/256-32"):
        assert kind in text


@pytest.mark.parametrize("format_name", FORMATS)
def test_engines_compute_with_these_numbers(made: Any, monkeypatch: pytest.MonkeyPatch, format_name: str) -> None:
    folders, expected, _ = made
    use_libraries(monkeypatch, installed=True)
    for exact, most in ((True, EXACT), (False, LEVELS)):
        with LLM(folders[format_name], exact=exact, kernel="native") as llm:
            assert relative_rms(llm.logits(IDS), expected) < most
            assert llm.generate("Once", max_new_tokens=8, ignore_eos=True).token_ids


@pytest.mark.parametrize("format_name", FORMATS)
def test_without_the_library_weights_are_expanded(made: Any, monkeypatch: pytest.MonkeyPatch, format_name: str) -> None:
    folders, expected, _ = made
    use_libraries(monkeypatch, installed=False)
    with (
        pytest.warns(ExpandedWeightsWarning, match="weights were expanded"),
        LLM(folders[format_name], exact=True) as llm,
    ):
        assert relative_rms(llm.logits(IDS), expected) < FLOAT16


@pytest.mark.parametrize("format_name", FORMATS)
def test_one_wrong_byte_is_noticed(made: Any, tmp_path: Path, format_name: str) -> None:
    """The last bit of any part, in the folder's copy of each kind of weight, makes verification fail."""
    folders, _, tensors = made
    folder = folders[format_name]
    records = {record.name: record for record in read_manifest(folder).weights}
    weights = folder / ("openvino_model.bin" if format_name == "openvino" else "model.onnx.data")
    reader = open_reader(format_name, folder, records)
    for name in tensors:
        for part, entry in reader._entries.items():  # type: ignore[attr-defined]
            if not part.startswith(f"{name}/") and part != name:
                continue
            if part.endswith("/shape"):
                continue
            flip(weights, entry.offset)
            with contextlib.suppress(VerifyError):  # what cannot be such a weight
                assert reader.read(name).digest() != records[name].sha256, part
            flip(weights, entry.offset)


def flip(path: Path, offset: int) -> None:
    with path.open("r+b") as file:
        file.seek(offset)
        byte = file.read(1)[0]
        file.seek(offset)
        file.write(bytes([byte ^ 1]))


def test_sizes_are_those_of_the_file(made: Any) -> None:
    folders, _, tensors = made
    stored = sum(record.size_bytes for record in read_manifest(folders["openvino"]).weights if record.affine)
    assert stored == sum(tensor.size_bytes for tensor in tensors.values())
    manifest = json.loads((folders["openvino"] / "ovround.json").read_text())
    assert manifest["options"]["native_weights"]
