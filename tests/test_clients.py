"""Other people's runtimes read our folders and say the same, token for token: openvino_genai and onnxruntime_genai."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from engine_support import ERRORS, LIMITS, OPENVINO_GENAI
from random_model import CONFIGS, write_random_model

from ovround.conversion.convert import convert
from ovround.options.convert_options import ConvertOptions
from ovround.options.layer_rule import LayerRule
from ovround.runtime import LLM
from ovround.runtime.engines import open_engine
from ovround.runtime.model_info import read_model_info

NEW_TOKENS = 32
PROMPTS = {
    "demo": ("The with statement is used to", "A function returns"),
    "tiny": ("once upon a time", "the little cat", "a house by the sea", "she said that", "in the morning"),
}
STORIES = ("Once upon a time, there was a little", "Lily and Tom went to the park. They saw a")
# float32 throughout: with int8 activations or cache two programs that add up in another order may choose another token
EXACT = {"INFERENCE_PRECISION_HINT": "f32", "DYNAMIC_QUANTIZATION_GROUP_SIZE": 0, "KV_CACHE_PRECISION": "f32"}
MODELS = ("stories260K", "TinyStories-656K", "stories3M", "tales-7m")


@pytest.fixture(scope="session", params=["demo", "tiny", *MODELS])
def case(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[dict[str, Path], tuple[str, ...]]:
    """Folders by format, and prompts, of the demo model, a tiny random one, and each shared model."""
    name = request.param
    if name in PROMPTS:
        folders: dict[str, Path] = request.getfixturevalue(f"{name}_folders")
        return folders, PROMPTS[name]
    source = request.getfixturevalue("shared") / "models" / name
    if not source.is_dir():
        pytest.skip(f"no model {name} in the shared folder")
    rules = (LayerRule("down_proj", group_size=-1),) if name == "stories260K" else ()
    options = ConvertOptions(formats=("openvino", "onnx"), group_size=32, recipe="rtn", sym=False, layers=rules)
    folders = {path.name: path for path in convert(source, tmp_path_factory.mktemp(name) / "out", options).folders}
    return folders, STORIES


def ours(folder: Path, prompts: tuple[str, ...], *, exact: bool) -> list[tuple[list[int], list[int], str]]:
    """Of each prompt: its ids, the greedy answer's ids without the end token, and the answer's text."""
    answers = []
    with LLM(folder, exact=exact, threads=1) as llm:
        for prompt in prompts:
            answer = llm.generate(prompt, max_new_tokens=NEW_TOKENS)
            token_ids = without_end(folder, answer.token_ids)
            answers.append((llm.tokenizer.encode(prompt), token_ids, answer.text))
    # A tiny model's answers depend on the processor's way to add: one may end at once, not all.
    assert max(len(token_ids) for _, token_ids, _ in answers) > 3
    return answers


def without_end(folder: Path, token_ids: Sequence[int]) -> list[int]:
    """Some count the end token as part of the answer, some do not."""
    ended = token_ids[-1] in read_model_info(folder).end_token_ids
    return list(token_ids[:-1] if ended else token_ids)


@pytest.mark.parametrize("backend", ["SDPA", "PA"])
def test_openvino_genai(case: tuple[dict[str, Path], tuple[str, ...]], backend: str) -> None:
    genai: Any = pytest.importorskip("openvino_genai")
    folders, prompts = case
    folder = folders["openvino"]
    pipeline = genai.LLMPipeline(folder, "CPU", **EXACT, ATTENTION_BACKEND=backend, INFERENCE_NUM_THREADS=1)
    tokenizer = pipeline.get_tokenizer()
    for prompt, (prompt_ids, token_ids, text) in zip(prompts, ours(folder, prompts, exact=True), strict=True):
        inputs = tokenizer.encode(prompt)
        assert inputs.input_ids.data.tolist() == [prompt_ids]
        generated = pipeline.generate(inputs, max_new_tokens=NEW_TOKENS, do_sample=False, apply_chat_template=False)
        assert without_end(folder, generated.tokens[0]) == token_ids
        assert pipeline.generate(prompt, max_new_tokens=NEW_TOKENS, do_sample=False, apply_chat_template=False) == text


def test_onnxruntime_genai(case: tuple[dict[str, Path], tuple[str, ...]]) -> None:
    """At the same arithmetic as ours by default, int8 activations: both run one graph on one library."""
    genai: Any = pytest.importorskip("onnxruntime_genai")
    folders, prompts = case
    folder = folders["onnx"]
    model = genai.Model(str(folder))
    for prompt_ids, token_ids, _ in ours(folder, prompts, exact=False):
        settings = genai.GeneratorParams(model)
        settings.set_search_options(max_length=len(prompt_ids) + NEW_TOKENS, do_sample=False)
        generator = genai.Generator(model, settings)
        generator.append_tokens(prompt_ids)
        while not generator.is_done():
            generator.generate_next_token()
        assert [int(token) for token in generator.get_sequence(0)][len(prompt_ids) :] == token_ids


def test_onnxruntime_genai_reads_the_tokenizer(demo_folders: dict[str, Path]) -> None:
    """Its tokenizer reads tokenizer.json, but never puts the beginning-of-text token in front (0.18)."""
    genai: Any = pytest.importorskip("onnxruntime_genai")
    folder = demo_folders["onnx"]
    tokenizer = genai.Tokenizer(genai.Model(str(folder)))
    for prompt, (prompt_ids, token_ids, text) in zip(
        PROMPTS["demo"], ours(folder, PROMPTS["demo"], exact=False), strict=True
    ):
        assert [int(token) for token in tokenizer.encode(prompt)] == prompt_ids[1:]
        assert tokenizer.decode(token_ids) == text


END_TOKEN, RANDOM_PROMPT = 2, np.random.default_rng(3).integers(5, 320, 20).tolist()  # longer than every window


@pytest.fixture(scope="module", params=CONFIGS)
def random_case(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[str, dict[str, Path], list[int]]:
    """A configuration of a family, its folders by format, and the ids that follow `RANDOM_PROMPT` by our runtime."""
    folder = tmp_path_factory.mktemp(request.param)
    write_random_model(folder / "model", CONFIGS[request.param], template=False)
    options = ConvertOptions(formats=("openvino", "onnx"), bits=16)
    folders = {path.name: path for path in convert(folder / "model", folder / "out", options).folders}
    engine = open_engine(folders["openvino"], exact=True, threads=1)
    token_ids = [int(engine.prefill([RANDOM_PROMPT])[0].argmax())]
    while len(token_ids) < NEW_TOKENS and token_ids[-1] != END_TOKEN:
        token_ids.append(int(engine.decode(token_ids[-1:])[0].argmax()))
    engine.close()
    return request.param, folders, [token for token in token_ids if token != END_TOKEN]


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["SDPA", "PA"])
def test_openvino_genai_runs_every_family(random_case: tuple[str, dict[str, Path], list[int]], backend: str) -> None:
    """Both back ends: paged attention reads window and slopes off the graph's shape, and drops a mask that it does not know."""
    genai: Any = pytest.importorskip("openvino_genai")
    import openvino as ov

    name, folders, token_ids = random_case

    def generated_ids() -> list[int]:
        pipeline = genai.LLMPipeline(
            folders["openvino"], "CPU", **EXACT, ATTENTION_BACKEND=backend, INFERENCE_NUM_THREADS=1
        )
        ids = np.array([RANDOM_PROMPT], np.int64)
        inputs = genai.TokenizedInputs(ov.Tensor(ids), ov.Tensor(np.ones_like(ids)))
        settings = {"max_new_tokens": NEW_TOKENS, "do_sample": False, "apply_chat_template": False}
        tokens = pipeline.generate(inputs, eos_token_id=END_TOKEN, **settings).tokens[0]
        return [int(token) for token in tokens if token != END_TOKEN]

    if backend == "PA" and (name, OPENVINO_GENAI) in LIMITS:
        with pytest.raises(RuntimeError, match=ERRORS[LIMITS[name, OPENVINO_GENAI]]):
            generated_ids()
        return
    assert generated_ids() == token_ids


@pytest.mark.slow
def test_onnxruntime_genai_runs_every_family(random_case: tuple[str, dict[str, Path], list[int]]) -> None:
    genai: Any = pytest.importorskip("onnxruntime_genai")
    _, folders, token_ids = random_case
    model = genai.Model(str(folders["onnx"]))
    settings = genai.GeneratorParams(model)
    settings.set_search_options(max_length=len(RANDOM_PROMPT) + NEW_TOKENS, do_sample=False)
    generator = genai.Generator(model, settings)
    generator.append_tokens(RANDOM_PROMPT)
    while not generator.is_done():
        generator.generate_next_token()
    answer = [int(token) for token in generator.get_sequence(0)][len(RANDOM_PROMPT) :]
    assert [token for token in answer if token != END_TOKEN] == token_ids
