"""A mixer of a new kind, from outside of ovround: no room but the part's own files knows it.

The toy family alternates a gated recurrence with attention. Its part, family and verbs lie in `toy_family`, registered as
docs/guides/add-a-model.md says. It is read, tuned, written, run, rewound and batched by what knows nothing of it.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from checkpoint_writer import VOCAB_SIZE, write_checkpoint
from converted_weights import as_torch, read_weights
from random_model import relative_rms
from toy_family import toy_recurrent, verb_onnx, verb_openvino, verb_torch

from ovround import models
from ovround.artifact.manifest import ENGINE_FORMATS, read_manifest
from ovround.conversion.convert import convert
from ovround.errors import ArchitectureError
from ovround.models import verbs
from ovround.models.torch_ops import TorchOps
from ovround.options.convert_options import ConvertOptions
from ovround.options.tuning_options import TuningOptions
from ovround.runtime import LLM
from ovround.runtime.engines import open_engine

TOLERANCE = 2e-5  # as in test_families
CONFIG = {**toy_recurrent.smallest_configs()[0], "vocab_size": VOCAB_SIZE, "bos_token_id": 1, "eos_token_id": 2}
IDS = np.random.default_rng(7).integers(3, VOCAB_SIZE, (3, 24))
PREFILL = 14


@pytest.fixture(scope="module", autouse=True)
def _registered() -> None:
    """What an application does once, before it converts."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(models.registered, "toy_recurrent", toy_recurrent.from_config)
        for backend, module in (("torch", verb_torch), ("openvino", verb_openvino), ("onnx", verb_onnx)):
            patch.setitem(verbs.registered, (backend, "gated_recurrence"), module.compute)
        yield


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory, _registered: None) -> Path:
    return write_checkpoint(tmp_path_factory.mktemp("toy") / "model", CONFIG)


@pytest.fixture(scope="module", params=["rtn", "tuned"])
def folders(
    request: pytest.FixtureRequest, source: Path, tmp_path_factory: pytest.TempPathFactory, text_file: Path
) -> dict[str, Path]:
    """A folder for each format, rounded or tuned a few steps."""
    options = ConvertOptions(formats=ENGINE_FORMATS, group_size=32, recipe="rtn")
    if request.param == "tuned":
        options = ConvertOptions(
            formats=ENGINE_FORMATS, group_size=32, iters=2, nsamples=4, seqlen=32, calibration=(text_file,),
            tuning=TuningOptions(end_to_end_steps=1, batch_size=2),
        )  # fmt: skip
    out = tmp_path_factory.mktemp(request.param) / "out"
    return dict(zip(ENGINE_FORMATS, convert(source, out, options).folders, strict=True))


def torch_logits(folder: Path, *, steps: bool = False) -> np.ndarray:
    """Logits `[B, T, V]` of the folder's own integers; with `steps` after a prefill and after each token."""
    weights = as_torch(read_weights(folder))
    decoder = models.from_config({**CONFIG, "tie_word_embeddings": "lm_head.weight" not in weights})
    ids, ops = torch.from_numpy(IDS), TorchOps(weights, keep_cache=steps)
    with torch.no_grad():
        if not steps:
            return decoder.logits(ops, ids).numpy()
        parts = [ids[:, :PREFILL], *(ids[:, at : at + 1] for at in range(PREFILL, IDS.shape[1]))]
        return torch.stack([decoder.logits(ops, part)[:, -1] for part in parts], 1).numpy()


@pytest.mark.parametrize("format_name", ENGINE_FORMATS)
def test_engines_compute_what_torch_computes(folders: dict[str, Path], format_name: str) -> None:
    expected, by_steps = torch_logits(folders[format_name]), torch_logits(folders[format_name], steps=True)
    assert relative_rms(by_steps, expected[:, PREFILL - 1 :]) <= TOLERANCE
    engine = open_engine(folders[format_name], exact=True, threads=1)
    assert relative_rms(engine.logits(IDS), expected) <= TOLERANCE
    steps = [engine.prefill(IDS[:, :PREFILL].tolist())]
    steps += [engine.decode(IDS[:, at].tolist()) for at in range(PREFILL, IDS.shape[1])]
    assert relative_rms(np.stack(steps, 1), by_steps) <= TOLERANCE
    engine.close()


@pytest.mark.parametrize("format_name", ENGINE_FORMATS)
def test_rows_of_unequal_length_are_kept_and_rewound(folders: dict[str, Path], format_name: str) -> None:
    """Padding leaves the recurrent state as it is; a rewind, which that state cannot do, computes the tokens again."""
    expected = torch_logits(folders[format_name])
    engine, lengths = open_engine(folders[format_name], exact=True, threads=1), (14, 5, 9)
    first = engine.prefill([row[:length].tolist() for row, length in zip(IDS, lengths, strict=True)])
    for row, length in enumerate(lengths):
        assert relative_rms(first[row], expected[row, length - 1]) <= TOLERANCE
    engine.keep([2, 0])
    extended = engine.extend([IDS[2, 9:12].tolist(), IDS[0, 14:17].tolist()])
    assert relative_rms(extended, np.stack([expected[2, 9:12], expected[0, 14:17]])) <= TOLERANCE
    engine.rewind([10, 17])
    after = engine.decode([int(IDS[2, 10]), int(IDS[0, 17])])
    assert relative_rms(after, np.stack([expected[2, 10], expected[0, 17]])) <= TOLERANCE
    engine.reset()
    assert relative_rms(engine.prefill([IDS[1, :6].tolist()])[0], expected[1, 5]) <= TOLERANCE
    engine.close()


@pytest.mark.parametrize("format_name", ENGINE_FORMATS)
def test_the_runtime_generates_and_goes_on(folders: dict[str, Path], format_name: str) -> None:
    """A second prompt that shares its beginning with the first gives what a fresh engine gives."""
    with LLM(folders[format_name], exact=True, threads=1) as llm:
        first = llm.generate("once upon a time", max_new_tokens=8)
        again = llm.generate("once upon a time", max_new_tokens=8)
        other = llm.generate("once upon a mat", max_new_tokens=8)
    with LLM(folders[format_name], exact=True, threads=1) as llm:
        assert llm.generate("once upon a mat", max_new_tokens=8).token_ids == other.token_ids
    assert first.token_ids == again.token_ids
    assert len(first.token_ids) == 8 or first.finish_reason == "stop"


def test_a_wrong_state_is_seen(folders: dict[str, Path]) -> None:
    """The negative control of the tests above: steps that begin from nothing instead of the state after the prefill."""
    expected = torch_logits(folders["onnx"])
    engine = open_engine(folders["onnx"], exact=True, threads=1)
    engine.prefill(IDS[:, :PREFILL].tolist())
    for name, buffer in engine._buffers.items():
        if name.startswith("past_state."):
            buffer[:] = 0
    after = engine.decode(IDS[:, PREFILL].tolist())
    assert relative_rms(after, expected[:, PREFILL]) > 100 * TOLERANCE
    engine.close()


def test_both_mixers_are_quantised(folders: dict[str, Path]) -> None:
    quantised = {record.name for record in read_manifest(folders["openvino"]).weights if record.bits == 4}
    assert "model.layers.0.recurrence.value_proj.weight" in quantised
    assert "model.layers.1.self_attn.v_proj.weight" in quantised
    assert not any(name.startswith("model.layers.0.self_attn") for name in quantised)


def test_what_a_target_does_not_have_is_refused_before_anything_is_written(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delitem(verbs.registered, ("onnx", "gated_recurrence"))
    with pytest.raises(ArchitectureError, match="`gated_recurrence` is not built for onnx") as caught:
        convert(source, tmp_path / "out", ConvertOptions(formats=("onnx",), group_size=32, recipe="rtn"))
    assert caught.value.hint == "it is for torch, openvino"
    with pytest.raises(ArchitectureError, match="`gated_recurrence` is not built for hpu"):
        open_engine(source, "hpu-emulated")
    assert not list(tmp_path.iterdir())


def test_the_guide_shows_these_files_and_counts_their_lines() -> None:
    here = Path(__file__).parent
    guide = (here.parent / "docs" / "guides" / "add-a-model.md").read_text(encoding="utf-8")
    part = (here / "toy_family" / "gated_recurrence.py").read_text(encoding="utf-8")
    assert part[part.index("from dataclasses") :] in guide
    torch_verb = (here / "toy_family" / "verb_torch.py").read_text(encoding="utf-8")
    assert torch_verb[torch_verb.index("    share, value = ") :] in guide
    files = ("gated_recurrence", "toy_recurrent", "verb_torch", "verb_openvino")
    lines = [len((here / "toy_family" / f"{name}.py").read_text(encoding="utf-8").splitlines()) for name in files]
    stated = [
        int(line.rsplit("|", 2)[1])
        for line in guide.splitlines()
        if line.startswith(("| `ovround/models/", "| `exporters/"))
    ]
    assert stated == lines
    assert f"four files of {sum(lines)} lines" in guide
