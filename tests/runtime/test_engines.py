"""Both engines against torch in float32: one pass, steps, ragged batches, rows that leave; and every refusal."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from ovround.artifact.manifest import Manifest, write_manifest
from ovround.errors import ArtifactError, EngineError, GenerationError, UsageError
from ovround.runtime.engine import Engine
from ovround.runtime.engines import open_engine
from ovround.tensors.qtensor import QTensor

TOLERANCE = 1e-4  # logits of size 10 in float32, summed in another order: 2e-6 measured
Reference = Callable[[list[int]], NDArray[np.float32]]
PROMPTS = [[1], [1, 30, 40, 50, 60, 70, 80], [9] * 20 + [8] * 13]


@pytest.fixture(scope="module")
def engines(openvino_folder: Path, onnx_folder: Path) -> dict[str, Engine]:
    folders = {"openvino": openvino_folder, "onnx": onnx_folder}
    return {name: open_engine(folder, exact=True, threads=1) for name, folder in folders.items()}


@pytest.fixture(params=["openvino", "onnx"])
def engine(request: pytest.FixtureRequest, engines: dict[str, Engine]) -> Engine:
    engines[request.param].reset()
    return engines[request.param]


def close(ours: NDArray[np.float32], theirs: Any) -> bool:
    return ours.dtype == np.float32 and bool(np.abs(ours - np.asarray(theirs)).max() < TOLERANCE)


def test_what_an_engine_says_of_itself(engine: Engine) -> None:
    assert (engine.vocab_size, engine.context_length) == (320, 640)
    assert "CPU" in engine.device


def test_logits_of_all_positions(engine: Engine, reference: Reference) -> None:
    ids = np.random.default_rng(0).integers(0, 320, (3, 21))
    logits = engine.logits(ids)
    assert logits.shape == (3, 21, 320)
    assert close(logits, [reference(row.tolist()) for row in ids])


def test_logits_leave_the_cache_alone(engine: Engine, reference: Reference) -> None:
    engine.prefill([[1, 2, 3]])
    engine.logits(np.array([[7, 8], [9, 10]]))
    assert close(engine.decode([4]), [reference([1, 2, 3, 4])[-1]])


def test_a_ragged_batch_step_by_step(engine: Engine, reference: Reference) -> None:
    rows = [list(prompt) for prompt in PROMPTS]
    logits = engine.prefill(rows)
    for _ in range(12):
        assert close(logits, [reference(row)[-1] for row in rows])
        for row, best in zip(rows, logits.argmax(axis=1), strict=True):
            row.append(int(best))
        logits = engine.decode([row[-1] for row in rows])


def test_a_batch_without_memory(engine: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is refused in words, and the engine goes on."""
    (tmp_path / "meminfo").write_text("MemTotal: 9999 kB\nMemAvailable: 64 kB\n")
    with monkeypatch.context() as patch:
        patch.setattr("ovround.runtime.memory._MEMORY", tmp_path / "meminfo")
        with pytest.raises(GenerationError, match=r"50 rows of \d+ tokens need .* GB of cache; 0\.0 GB are free"):
            engine.prefill([[1, 2, 3] * 100] * 50)
    engine.reset()
    assert engine.prefill([[1, 2, 3]]).shape == (1, 320)


def test_several_tokens_at_once(engine: Engine, reference: Reference) -> None:
    assert close(engine.extend([[1, 2, 3]]), [reference([1, 2, 3])])
    ids = np.random.default_rng(4).integers(0, 320, 300).tolist()  # more than a piece of the ONNX engine
    assert close(engine.extend([ids]), [reference([1, 2, 3, *ids])[3:]])
    with pytest.raises(GenerationError, match="unequal"):
        engine.extend([[1], [2, 3]])


def test_a_ragged_batch_is_extended(engine: Engine, reference: Reference) -> None:
    engine.prefill(PROMPTS)
    logits = engine.extend([[3, 4], [5, 6], [7, 8]])
    for ours, row, tail in zip(logits, PROMPTS, [[3, 4], [5, 6], [7, 8]], strict=True):
        assert close(ours, reference([*row, *tail])[-2:])


def test_tokens_are_taken_back(engine: Engine, reference: Reference) -> None:
    engine.prefill(PROMPTS)
    engine.extend([[3, 4, 5], [5, 6, 7], [7, 8, 9]])
    engine.rewind([2, 7, 35])
    assert close(
        engine.decode([11, 12, 13]),
        [reference([1, 3, 11])[-1], reference([*PROMPTS[1], 12])[-1], reference([*PROMPTS[2], 7, 8, 13])[-1]],
    )
    engine.rewind([1, 1, 1])
    logits = engine.prefill([[5, 6], [7], [8, 9]])
    assert close(logits, [reference([1, 5, 6])[-1], reference([1, 7])[-1], reference([9, 8, 9])[-1]])
    with pytest.raises(GenerationError, match="cannot go back to 4"):
        engine.rewind([1, 4, 1])
    with pytest.raises(GenerationError, match="cannot go back to 0"):
        engine.rewind([1, 0, 1])


def test_taking_back_again_and_again(engine: Engine, reference: Reference) -> None:
    """Far more tokens than the context holds at once: what was taken back must leave the cache."""
    row = [1, 2, 3]
    engine.prefill([row])
    rng = np.random.default_rng(6)
    for _ in range(60):
        guesses = rng.integers(0, 320, 16).tolist()
        engine.extend([guesses])
        engine.rewind([len(row) + 1])
        row.append(guesses[0])
    assert close(engine.decode([9]), [reference([*row, 9])[-1]])


def test_a_row_may_be_doubled(engine: Engine, reference: Reference) -> None:
    engine.prefill([[1, 2], [3, 4, 5]])
    engine.keep([1, 1, 0])
    rows = [[3, 4, 5, 6], [3, 4, 5, 7], [1, 2, 8]]
    assert close(engine.decode([6, 7, 8]), [reference(row)[-1] for row in rows])
    engine.keep([1, 0])
    assert close(engine.decode([9, 9]), [reference([*rows[1], 9])[-1], reference([*rows[0], 9])[-1]])


def test_rows_leave(engine: Engine, reference: Reference) -> None:
    engine.prefill(PROMPTS)
    engine.decode([3, 4, 5])
    engine.keep([0, 2])
    assert close(engine.decode([6, 7]), [reference([*PROMPTS[0], 3, 6])[-1], reference([*PROMPTS[2], 5, 7])[-1]])
    engine.keep([1])
    assert close(engine.decode([8]), [reference([*PROMPTS[2], 5, 7, 8])[-1]])


def test_rows_may_leave_twice_between_steps(engine: Engine, reference: Reference) -> None:
    engine.prefill(PROMPTS)
    engine.keep([1, 2])
    engine.keep([1])
    assert close(engine.decode([8]), [reference([*PROMPTS[2], 8])[-1]])


def test_a_second_prefill_continues(engine: Engine, reference: Reference) -> None:
    engine.prefill([[1, 2, 3], [4]])
    logits = engine.prefill([[5], [6, 7, 8, 9]])
    assert close(logits, [reference([1, 2, 3, 5])[-1], reference([4, 6, 7, 8, 9])[-1]])
    assert close(engine.decode([2, 3]), [reference([1, 2, 3, 5, 2])[-1], reference([4, 6, 7, 8, 9, 3])[-1]])


def test_reset_forgets(engine: Engine, reference: Reference) -> None:
    engine.prefill([[1, 2, 3]])
    engine.reset()
    assert close(engine.prefill([[4, 5], [6]]), [reference([4, 5])[-1], reference([6])[-1]])


def test_up_to_the_end_of_the_context(engine: Engine, reference: Reference) -> None:
    """Also more than one piece of the ONNX engine's prefill, and more than its first buffers hold."""
    ids = np.random.default_rng(1).integers(0, 320, 640).tolist()
    engine.prefill([ids[:20]])
    engine.prefill([ids[20:600]])
    for token in ids[600:]:
        logits = engine.decode([token])
    assert close(logits, [reference(ids)[-1]])
    with pytest.raises(GenerationError, match="641"):
        engine.decode([1])
    with pytest.raises(GenerationError, match="641"):
        engine.logits(np.zeros((1, 641), np.int64))


@pytest.mark.parametrize("prompts", [[], [[]], [[1], []], [[320]], [[1], [-1]]])
def test_prompts_that_cannot_be(engine: Engine, prompts: Any) -> None:
    with pytest.raises(GenerationError):
        engine.prefill(prompts)


def test_a_step_needs_a_token_a_row(engine: Engine) -> None:
    engine.prefill([[1], [2]])
    with pytest.raises(GenerationError, match="3 rows"):
        engine.decode([1, 2, 3])


def test_the_default_mode_stays_close(folder: Path, reference: Reference) -> None:
    """bfloat16 and an 8-bit cache on OpenVINO where the CPU has them: batches of changing size, as a server sees them."""
    engine = open_engine(folder, threads=1)
    rng = np.random.default_rng(2)
    for size in (1, 3, 2, 1, 4):
        rows = [rng.integers(0, 320, rng.integers(1, 30)).tolist() for _ in range(size)]
        engine.reset()
        logits = engine.prefill(rows)
        for _ in range(30):
            tokens = rng.integers(0, 320, size).tolist()
            for row, token in zip(rows, tokens, strict=True):
                row.append(token)
            logits = engine.decode(tokens)
            assert np.isfinite(logits).all()
        expected = np.array([reference(row)[-1] for row in rows])
        assert np.square(logits - expected).mean() < 0.02 * np.square(expected).mean()


def test_an_ir_without_position_ids(openvino_folder: Path, tmp_path: Path, reference: Reference) -> None:
    """Some of optimum-intel's models take positions from the mask themselves."""
    import openvino as ov
    from openvino import opset13 as opset

    model: Any = ov.Core().read_model(openvino_folder / "openvino_model.xml")
    positions = next(node for node in model.get_parameters() if node.get_friendly_name() == "position_ids")
    mask = next(node for node in model.get_parameters() if node.get_friendly_name() == "attention_mask")
    ids = next(node for node in model.get_parameters() if node.get_friendly_name() == "input_ids")
    i64_one, axis = opset.constant([1], ov.Type.i64), opset.constant(1, ov.Type.i64)
    tokens = opset.gather(opset.shape_of(ids, "i64"), i64_one, opset.constant(0, ov.Type.i64))
    counted = opset.subtract(opset.cumsum(mask, axis), opset.constant(1, ov.Type.i64))
    last = opset.slice(counted, opset.negative(tokens), opset.constant([2**31 - 1], ov.Type.i64), i64_one, i64_one)
    for reader in positions.output(0).get_target_inputs():
        reader.replace_source_output(last.output(0))
    model.remove_parameter(positions)
    folder = tmp_path / "out"
    shutil.copytree(openvino_folder, folder, ignore=shutil.ignore_patterns("openvino_model.*"))
    ov.save_model(model, folder / "openvino_model.xml", compress_to_fp16=False)
    engine = open_engine(folder, exact=True, threads=1)
    engine.prefill(PROMPTS)
    assert close(
        engine.decode([3, 4, 5]), [reference([*row, t])[-1] for row, t in zip(PROMPTS, [3, 4, 5], strict=True)]
    )


def test_exact_reaches_the_kernels_of_quantised_weights(tiny: Any, exporting: Any, tmp_path: Path) -> None:
    """With 4-bit weights ONNX Runtime rounds activations to int8 by default, and does not when `exact`."""
    rng = np.random.default_rng(3)
    weights = dict(tiny[1])
    for name in [name for name in weights if name.endswith("_proj.weight")]:
        rows, columns = weights[name].shape
        codes = rng.integers(0, 16, (rows, columns), dtype=np.uint8)
        weights[name] = QTensor(codes, np.full((rows, columns // 32), 0.05, np.float16), None, 4)
    folder = exporting("onnx", tiny[0], weights, tmp_path / "out")
    ids = rng.integers(0, 320, (1, 16))
    exact, fast = (open_engine(folder, exact=mode, threads=1).logits(ids) for mode in (True, False))
    error = np.sqrt(np.square(exact - fast).mean() / np.square(exact).mean())
    assert 1e-4 < error < 0.1


def test_an_unknown_device_lists_the_known(openvino_folder: Path) -> None:
    for device in ("TPU", "GPU.7", "AUTO:CPU,TPU", ""):
        with pytest.raises(EngineError, match="is not there") as caught:
            open_engine(openvino_folder, device)
        assert "CPU" in str(caught.value.hint)


@pytest.mark.parametrize("device", ["CPU", "cpu", "AUTO", "AUTO:CPU", "AUTO:-GPU"])
def test_devices_that_are_there(openvino_folder: Path, device: str) -> None:
    assert open_engine(openvino_folder, device).prefill([[1, 2]]).shape == (1, 320)


def test_onnx_runs_on_cpu(onnx_folder: Path) -> None:
    assert open_engine(onnx_folder, "cpu").vocab_size == 320
    with pytest.raises(EngineError, match="GPU"):
        open_engine(onnx_folder, "GPU")


@pytest.mark.parametrize("threads", [0, -1, 1.5, True])
def test_threads_that_cannot_be(folder: Path, threads: Any) -> None:
    with pytest.raises(UsageError, match="threads"):
        open_engine(folder, threads=threads)


def test_threads_are_for_cpu(openvino_folder: Path) -> None:
    with pytest.raises(UsageError, match="AUTO"):
        open_engine(openvino_folder, "AUTO", threads=1)


def test_a_closed_engine_says_so(folder: Path) -> None:
    engine = open_engine(folder)
    engine.close()
    engine.close()
    with pytest.raises(EngineError, match="closed"):
        engine.prefill([[1]])
    with pytest.raises(EngineError, match="closed"):
        engine.logits(np.array([[1]]))


def test_folders_that_hold_no_model(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="does not exist"):
        open_engine(tmp_path / "nowhere")
    (tmp_path / "file").write_text("")
    with pytest.raises(ArtifactError, match="no folder"):
        open_engine(tmp_path / "file")
    (tmp_path / "checkpoint").mkdir()
    with pytest.raises(ArtifactError, match="neither"):
        open_engine(tmp_path / "checkpoint")
    (tmp_path / "checkpoint" / "model.safetensors").write_text("")
    with pytest.raises(ArtifactError) as caught:
        open_engine(tmp_path / "checkpoint")
    assert f'LLM("{tmp_path / "checkpoint"}")' in str(caught.value.hint)


def test_a_folder_of_two_targets_names_them(openvino_folder: Path, tmp_path: Path) -> None:
    shutil.copytree(openvino_folder, tmp_path / "openvino")
    write_manifest(tmp_path / "openvino", manifest())
    with pytest.raises(ArtifactError) as caught:
        open_engine(tmp_path)
    assert str(tmp_path / "openvino") in str(caught.value.hint)


def manifest() -> Manifest:
    return Manifest("0", "openvino", "tiny", "llama", {}, {}, {}, ())


def test_the_manifest_is_checked_first(folder: Path, tmp_path: Path) -> None:
    copy = tmp_path / "out"
    shutil.copytree(folder, copy)
    write_manifest(copy, manifest())
    open_engine(copy)
    weights = next(path for path in copy.iterdir() if path.name in ("openvino_model.bin", "model.onnx.data"))
    with weights.open("ab") as file:
        file.write(b"x")
    with pytest.raises(ArtifactError, match=weights.name):
        open_engine(copy)
    (copy / "ovround.json").write_text("{")
    with pytest.raises(ArtifactError, match=r"ovround\.json"):
        open_engine(copy)


@pytest.mark.parametrize(
    ("name", "damage"),
    [
        ("openvino_model.bin", "removed"),  # what else may be wrong with weights, the manifest's sizes and sums tell
        *((name, damage) for name in ("openvino_model.xml", "model.onnx") for damage in ("cut", "removed", "zeros")),
        *(("genai_config.json", damage) for damage in ("cut", "removed", "zeros")),
    ],
)
def test_damage_names_the_file(request: pytest.FixtureRequest, tmp_path: Path, name: str, damage: str) -> None:
    folder = request.getfixturevalue("openvino_folder" if name.startswith("openvino") else "onnx_folder")
    copy = tmp_path / "out"
    shutil.copytree(folder, copy)
    path, size = copy / name, (copy / name).stat().st_size
    if damage == "removed":
        path.unlink()
    else:
        path.write_bytes(path.read_bytes()[: size // 2] if damage == "cut" else bytes(size))
    with pytest.raises((ArtifactError, EngineError)) as caught:
        open_engine(copy)
    assert path.stem in str(caught.value)


@pytest.mark.parametrize(
    ("name", "fields", "message"),
    [
        ("config.json", {"max_position_embeddings": None}, None),
        ("config.json", {"max_position_embeddings": -4}, "-4"),
        ("config.json", {"max_position_embeddings": "many"}, "many"),
        ("generation_config.json", {"eos_token_id": "end"}, "end"),
        ("genai_config.json", {"search": {"past_present_share_buffer": False}}, "share_buffer"),
        ("genai_config.json", {"model": {}}, "decoder"),
    ],
)
def test_configurations(
    onnx_folder: Path, tmp_path: Path, name: str, fields: dict[str, Any], message: str | None
) -> None:
    copy = tmp_path / "out"
    shutil.copytree(onnx_folder, copy)
    (copy / name).write_text(json.dumps({**json.loads((copy / name).read_text()), **fields}))
    if message is None:
        assert open_engine(copy).context_length == 640  # genai_config.json says it too
    else:
        with pytest.raises(ArtifactError, match=message):
            open_engine(copy)


def test_a_model_of_another_kind_is_refused(openvino_folder: Path, tmp_path: Path) -> None:
    copy = tmp_path / "out"
    shutil.copytree(openvino_folder, copy)
    for suffix in (".xml", ".bin"):
        shutil.copyfile(copy / f"openvino_detokenizer{suffix}", copy / f"openvino_model{suffix}")
    with pytest.raises(ArtifactError, match="no stateful"):
        open_engine(copy)
