"""What each OpenVINO device is given, by the table; and an engine under an NPU's limits, on the CPU."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from ovround.errors import EngineError, GenerationError, UsageError
from ovround.runtime import LLM
from ovround.runtime.engines import openvino
from ovround.runtime.engines.openvino_devices import EXACT, profile_of

NPU = profile_of("NPU", 640)


def test_what_devices_are_given() -> None:
    assert profile_of("CPU", 640).options(exact=True, threads=2) == {**EXACT, "INFERENCE_NUM_THREADS": 2}
    assert profile_of("GPU.1", 640).options(exact=False, threads=None) == {}
    assert profile_of("GPU", 640).options(exact=True, threads=None)["INFERENCE_PRECISION_HINT"] == "f32"
    assert profile_of("AUTO:GPU,CPU", 640).whole
    assert NPU.options(exact=False, threads=None) == {
        "NPU_USE_NPUW": "YES", "NPUW_LLM": "YES", "NPUW_LLM_BATCH_DIM": 0, "NPUW_LLM_SEQ_LEN_DIM": 2,
        "NPUW_LLM_MAX_PROMPT_LEN": 512, "NPUW_LLM_MIN_RESPONSE_LEN": 128,
    }  # fmt: skip
    assert profile_of("NPU", 131072).context_length == 1152
    for device in ("GPU", "NPU", "AUTO"):
        with pytest.raises(UsageError, match="chosen for CPU only"):
            profile_of(device, 640).options(exact=False, threads=2)
    with pytest.raises(UsageError, match="float16 only"):
        NPU.options(exact=True, threads=None)


def test_the_axes_are_those_of_the_emitted_cache(openvino_folder: Path) -> None:
    import openvino as ov

    for variable in ov.Core().read_model(openvino_folder / "openvino_model.xml").get_variables():
        shape = variable.info.data_shape
        dynamic = [axis for axis, size in enumerate(shape) if size.is_dynamic]
        assert dynamic == [NPU.properties["NPUW_LLM_BATCH_DIM"], NPU.properties["NPUW_LLM_SEQ_LEN_DIM"]]


def test_an_answer_under_the_limits_of_an_npu(openvino_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with LLM(openvino_folder, exact=True, threads=1) as llm:
        plain = llm.generate("the cat sat", max_new_tokens=12).token_ids
    limited = replace(NPU, kind="NPU", exact=EXACT, threads=True, properties={}, prompt_length=24)
    monkeypatch.setattr(openvino, "profile_of", lambda device, context_length: limited)
    with LLM(openvino_folder, exact=True, threads=1) as llm:
        assert llm.generate("the cat sat", max_new_tokens=12).token_ids == plain
        assert llm.generate("the cat sat", max_new_tokens=12).token_ids == plain
        assert [
            completion.token_ids for completion in llm.generate(["the cat sat"] * 2, max_new_tokens=12, batch_size=1)
        ] == [plain] * 2
        with pytest.raises(GenerationError, match="computes one at a time"):
            llm.generate(["a", "b"], max_new_tokens=2)
        with pytest.raises(GenerationError, match="takes up to 24"):
            llm.generate("the cat sat " * 20, max_new_tokens=2)
        with pytest.raises(EngineError, match="last position alone"):
            llm.logits(np.array([[1, 2]]))
