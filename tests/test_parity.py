"""The parity chain: transformers, torch, ONNX Runtime and OpenVINO compute the same logits from the same integers.

Each link is the de-quantised weights of a real conversion, read back from the written files. transformers gets them as
plain float32 tensors; the engines get their folders. One pass over all positions, and step by step with the cache.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from checkpoint_writer import write_checkpoint
from command_server import CommandServer
from converted_weights import as_torch, read_weights, weight_offset
from numpy.typing import NDArray
from passes_of_job import emitted
from transformers import AutoConfig, LlamaForCausalLM

from ovround.artifact.manifest import ENGINE_FORMATS, read_manifest
from ovround.checkpoint import locate
from ovround.conversion.convert import convert, prepare
from ovround.errors import VerifyError
from ovround.exporters.onnx import external_data
from ovround.exporters.onnx.package import OnnxExporter
from ovround.exporters.openvino import storage
from ovround.exporters.openvino.package import OpenVINOExporter
from ovround.models import from_config
from ovround.models.torch_ops import TorchOps
from ovround.options.convert_options import ConvertOptions
from ovround.options.layer_rule import LayerRule
from ovround.options.tuning_options import TuningOptions
from ovround.runtime import LLM
from ovround.runtime.engines import open_engine
from ovround.tensors.qtensor import QTensor

TOLERANCE = 1e-5  # float32 sums in another order: 2e-7 to 3e-6 measured; one wrong nibble is 1e-3 (test below)
PREFILL, STEPS = 5, 6
SCHEMES = [(group, symmetric) for group in (32, 64) for symmetric in (True, False)]
Ids = NDArray[np.int64]
Logits = NDArray[np.float32]


def relative_rms(computed: Logits, expected: Logits) -> float:
    difference = np.sqrt(np.mean((computed.astype(np.float64) - expected) ** 2))
    return float(difference / np.sqrt(np.mean(expected.astype(np.float64) ** 2)))


@dataclass(frozen=True, slots=True)
class Chain:
    """One conversion: its source, its folder a format, and the de-quantised weights that both formats hold."""

    source: Path
    folders: dict[str, Path]
    weights: dict[str, torch.Tensor]

    def transformers(self, ids: Ids) -> Logits:
        """Logits `[B, T, V]` by transformers' own Llama, in float32."""
        config = AutoConfig.from_pretrained(self.source)
        config.tie_word_embeddings = False  # a tied head may have a scheme of its own
        config._attn_implementation = "eager"
        model = LlamaForCausalLM(config).float().eval()
        head = self.weights.get("lm_head.weight", self.weights["model.embed_tokens.weight"])
        model.load_state_dict({**self.weights, "lm_head.weight": head}, strict=True)
        with torch.no_grad():
            logits: Logits = model(torch.from_numpy(ids), use_cache=False).logits.numpy()
        return logits

    def torch(self, ids: Ids, *, steps: bool) -> Logits:
        """Logits `[B, T, V]` by `TorchOps`; with `steps`, a prefill and then token by token over its cache."""
        config = json.loads((self.source / "config.json").read_text())
        decoder = from_config({**config, "tie_word_embeddings": "lm_head.weight" not in self.weights})
        ops, tokens = TorchOps(self.weights, keep_cache=steps), torch.from_numpy(ids)
        cuts = [0, PREFILL, *range(PREFILL + 1, ids.shape[1] + 1)] if steps else [0, ids.shape[1]]
        parts = [tokens[:, start:end] for start, end in pairwise(cuts)]
        with torch.no_grad():
            return torch.cat([decoder.logits(ops, part) for part in parts], dim=1).numpy()

    def engine(self, format_name: str, ids: Ids) -> tuple[Logits, Logits]:
        """Logits `[B, T, V]` in one pass, and `[B, 1 + STEPS, V]` after a prefill and after each token that follows."""
        engine = open_engine(self.folders[format_name], exact=True, threads=1, verify=False)  # damaged ones too
        start = ids.shape[1] - STEPS
        steps = [engine.prefill(ids[:, :start].tolist())]
        steps += [engine.decode(ids[:, at].tolist()) for at in range(start, ids.shape[1])]
        one_pass = engine.logits(ids)
        engine.close()
        return one_pass, np.stack(steps, axis=1)

    def check(self, ids: Ids) -> None:
        expected = self.transformers(ids)
        assert relative_rms(self.torch(ids, steps=False), expected) <= TOLERANCE
        assert relative_rms(self.torch(ids, steps=True), expected) <= TOLERANCE
        for format_name in self.folders:
            one_pass, by_steps = self.engine(format_name, ids)
            assert relative_rms(one_pass, expected) <= TOLERANCE, format_name
            assert relative_rms(by_steps, expected[:, -STEPS - 1 :]) <= TOLERANCE, format_name


def converted(source: str | Path, out: Path, **options: Any) -> Chain:
    """Convert by the real `convert`, both formats; every weight of both folders has the digest that the tuner gave."""
    conversion = convert(
        source, out, ConvertOptions(**{"formats": ENGINE_FORMATS, "recipe": "rtn", "group_size": 32, **options})
    )
    folders = dict(zip(ENGINE_FORMATS, conversion.folders, strict=True))
    tensors = {format_name: read_weights(folder) for format_name, folder in folders.items()}
    for format_name, manifest in zip(ENGINE_FORMATS, conversion.manifests, strict=True):
        digests = {record.name: record.sha256 for record in manifest.weights}
        assert {name: weight.digest() for name, weight in tensors[format_name].items()} == digests
    return Chain(locate(str(source)), folders, as_torch(tensors["openvino"]))


def random_ids(vocab_size: int, *shape: int) -> Ids:
    return np.random.default_rng(11).integers(0, vocab_size, shape)


@pytest.mark.parametrize("dtype", ["F32", "F16", "BF16"])
def test_half_precision_and_shards(tmp_path: Path, dtype: str) -> None:
    """Norms, biases and the ends stay in the checkpoint's own type."""
    source = write_checkpoint(tmp_path / "model", dtype=dtype, shards=3)
    chain = converted(source, tmp_path / "out", lm_head_bits=16, embedding_bits=16)
    chain.check(random_ids(320, 1, 24))


def test_a_mixture_of_every_scheme(tmp_path: Path) -> None:
    rules = [
        LayerRule(f"{name}_proj", bits, group, symmetric)
        for name, bits, group, symmetric in [
            ("q", 2, 16, True), ("k", 2, -1, False), ("v", 8, 32, True), ("o", 3, 16, False),
            ("gate", 3, 64, True), ("up", 4, 16, False), ("down", 8, -1, False),
        ]
    ]  # fmt: skip
    source = write_checkpoint(tmp_path / "model")
    chain = converted(source, tmp_path / "out", layers=tuple(rules), embedding_bits=2, lm_head_bits=3)
    chain.check(random_ids(320, 2, 24))


def tuned_options(text_file: Path) -> dict[str, Any]:
    return {
        "recipe": "default",
        "iters": 6,
        "nsamples": 8,
        "seqlen": 32,
        "tuning": TuningOptions(batch_size=4),
        "calibration": (text_file,),
    }


@pytest.mark.parametrize("symmetric", [True, False], ids=["sym", "asym"])
def test_both_outputs_hold_the_tuners_integers(tmp_path: Path, text_file: Path, symmetric: bool) -> None:
    """Every code, scale and zero point, compared with what the tuner itself gives for the same options."""
    options = {**tuned_options(text_file), "sym": symmetric, "bits": 3, "group_size": 64}
    options["tuning"] = TuningOptions(end_to_end_steps=0)
    chain = converted("demo", tmp_path / "out", **options)
    job = prepare("demo", tmp_path / "other", ConvertOptions(**options))
    given = {name: tensor.weight for name, tensor in emitted(job).items()}
    for format_name, folder in chain.folders.items():
        written = read_weights(folder)
        assert list(written) == list(given), format_name
        for name, weight in given.items():
            back = written[name]
            assert type(back) is type(weight)
            if isinstance(weight, QTensor) and isinstance(back, QTensor):
                assert (back.bits, back.shape, back.group_size) == (weight.bits, weight.shape, weight.group_size)
                np.testing.assert_array_equal(back.codes, weight.codes)
                np.testing.assert_array_equal(back.scales.view(np.uint16), weight.scales.view(np.uint16))
                np.testing.assert_array_equal(back.zeros(), weight.zeros())
            assert back.digest() == weight.digest(), name
    chain.check(random_ids(2048, 1, 24))


@pytest.mark.parametrize("bits", [2, 3, 4, 8])
def test_the_demo_model(tmp_path: Path, bits: int) -> None:
    chain = converted("demo", tmp_path / "out", bits=bits, group_size=64, sym=bits % 2 == 0)
    chain.check(random_ids(2048, 2, 40))


MODELS = ("stories260K", "TinyStories-656K", "stories3M", "tales-7m")


@pytest.mark.parametrize(("group_size", "symmetric"), SCHEMES)
@pytest.mark.parametrize("name", MODELS)
def test_trained_models(shared: Path, tmp_path: Path, name: str, group_size: int, symmetric: bool) -> None:
    chain = trained(shared, name, tmp_path, group_size=group_size, sym=symmetric)
    chain.check(random_ids(512, 1, 48))


@pytest.mark.parametrize("symmetric", [True, False], ids=["sym", "asym"])
@pytest.mark.parametrize("bits", [2, 3, 8])
def test_other_widths_of_a_trained_model(shared: Path, tmp_path: Path, bits: int, symmetric: bool) -> None:
    chain = trained(shared, "stories260K", tmp_path, bits=bits, sym=symmetric)
    chain.check(random_ids(512, 1, 48))


def trained(shared: Path, name: str, tmp_path: Path, **options: Any) -> Chain:
    source = shared / "models" / name
    if not source.is_dir():
        pytest.skip(f"no model {name} in the shared folder")
    # 172 inputs, which no group size divides
    rules = (LayerRule("down_proj", group_size=-1),) if name == "stories260K" else ()
    return converted(source, tmp_path / "out", layers=rules, **options)


def flip(folder: Path, name: str) -> None:
    """Turn the highest bit of the first code of a 4-bit weight."""
    data, offset = weight_offset(folder, name)
    content = bytearray(data.read_bytes())
    content[offset] ^= 0x08
    data.write_bytes(content)


@pytest.mark.parametrize("format_name", ENGINE_FORMATS)
def test_one_wrong_nibble_breaks_parity_and_is_found(
    tiny_folders: dict[str, Path], tiny_source: Path, tmp_path: Path, command: CommandServer, format_name: str
) -> None:
    """The negative control of the tests above: what a tolerance of 1e-5 sees, and what `inspect --check` says."""
    folder = Path(shutil.copytree(tiny_folders[format_name], tmp_path / "out"))
    chain = Chain(tiny_source, {format_name: folder}, as_torch(read_weights(folder)))
    ids = random_ids(320, 1, 24)
    expected = chain.transformers(ids)
    with LLM(folder, exact=True, threads=1) as llm:
        assert relative_rms(llm.logits(ids), expected) <= TOLERANCE
    assert command("inspect", folder, "--check").status == 0

    flip(folder, "model.layers.1.mlp.up_proj.weight")
    one_pass, by_steps = chain.engine(format_name, ids)
    assert relative_rms(one_pass, expected) > 10 * TOLERANCE
    assert relative_rms(by_steps, expected[:, -STEPS - 1 :]) > 10 * TOLERANCE
    assert command("inspect", folder).status == 0, "sizes alone do not tell"
    result = command("inspect", folder, "--check")
    assert (result.status, result.stdout) == (1, "")
    data, _ = weight_offset(folder, "model.layers.1.mlp.up_proj.weight")
    assert result.stderr.splitlines() == [
        f"error: `{data}` has changed since it was written",
        "hint: convert again, or copy the folder again",
    ]
    weights, manifest = read_weights(folder), read_manifest(folder)
    wrong = [record.name for record in manifest.weights if weights[record.name].digest() != record.sha256]
    assert wrong == ["model.layers.1.mlp.up_proj.weight"]


@pytest.mark.parametrize("name", ["model.layers.1.mlp.up_proj.weight", "model.embed_tokens.weight", "lm_head.weight"])
@pytest.mark.parametrize("format_name", ENGINE_FORMATS)
def test_verify_refuses_one_wrong_nibble_and_keeps_nothing(
    tiny_source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, format_name: str, name: str
) -> None:
    """The disk changes a nibble between writing and reading back."""
    exporter = {"openvino": OpenVINOExporter, "onnx": OnnxExporter}[format_name]
    finish: Callable[[Any], None] = exporter.finish

    def damaging(self: Any) -> None:
        finish(self)
        if format_name == "openvino":
            data, entries = self.folder / storage.WEIGHTS_FILE, storage.read_entries(self.folder / storage.GRAPH_FILE)
            offset = entries[name].offset
        else:
            data = self.folder / external_data.WEIGHTS_FILE
            offset = external_data.read_entries(self.folder / external_data.GRAPH_FILE, data.name)[name].offset
        content = bytearray(data.read_bytes())
        content[offset] ^= 0x08
        data.write_bytes(content)

    monkeypatch.setattr(exporter, "finish", damaging)
    options = ConvertOptions(formats=(format_name,), recipe="rtn", group_size=32, lm_head_bits=4, embedding_bits=4)
    with pytest.raises(VerifyError, match=f"`{name}` read back from") as caught:
        convert(tiny_source, tmp_path / "out", options)
    assert caught.value.hint is not None
    assert "nothing was kept" in caught.value.hint
    assert list(tmp_path.iterdir()) == []
