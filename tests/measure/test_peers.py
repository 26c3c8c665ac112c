"""Our greedy tokens against openvino_genai's and onnxruntime-genai's on the same folders, in float32."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import pytest

from ovround.runtime import LLM

EXACT = {"INFERENCE_PRECISION_HINT": "f32", "KV_CACHE_PRECISION": "f32", "DYNAMIC_QUANTIZATION_GROUP_SIZE": "0"}
PROMPTS = ["once upon a time", "the cat sat on the mat"]


@pytest.mark.parametrize("backend", ["PA", "SDPA"])
def test_openvino_genai_agrees(openvino_folder: Path, backend: str) -> None:
    genai: Any = pytest.importorskip("openvino_genai")
    pipeline = genai.LLMPipeline(str(openvino_folder), "CPU", ATTENTION_BACKEND=backend, **EXACT)
    with LLM(openvino_folder, exact=True) as llm:
        for prompt in PROMPTS:
            theirs = pipeline.generate([prompt], max_new_tokens=24, apply_chat_template=False, do_sample=False)
            assert theirs.texts[0] == llm.generate(prompt, max_new_tokens=24).text


def test_onnxruntime_genai_agrees(onnx_folder: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        genai: Any = pytest.importorskip("onnxruntime_genai")
    model = genai.Model(str(onnx_folder))
    with LLM(onnx_folder, exact=True) as llm:
        for prompt in PROMPTS:
            ids = llm.tokenizer.encode(prompt)
            parameters = genai.GeneratorParams(model)
            parameters.set_search_options(max_length=len(ids) + 24, do_sample=False)
            generator = genai.Generator(model, parameters)
            generator.append_tokens(ids)
            while not generator.is_done():
                generator.generate_next_token()
            theirs = [int(token) for token in generator.get_sequence(0)][len(ids) :]
            assert theirs == list(llm.generate(prompt, max_new_tokens=24).token_ids)
