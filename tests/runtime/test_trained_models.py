"""Real models, in 4 bits, on both engines: however an answer is computed, greedy is greedy; and streams are their texts."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path

import pytest

from ovround.conversion.convert import convert
from ovround.options.convert_options import ConvertOptions
from ovround.runtime import LLM

pytestmark = pytest.mark.slow

MODELS = ["demo", "tales-7m", "stories3M", "TinyStories-656K", "stories260K"]
NEW_TOKENS = 40
PROMPTS = [
    "Once upon a time, there was a little girl. Once upon a time, there was a",
    "The with statement is used to",
    "Tom and Sue went to the park. Sue saw a",
    "A",
]
SCRIPTS = [
    "abc äöü ß é", "e\u0301a\u0308o\u0302\u0327", "日本語の文章", "中文字符测试", "한국어 문장", "हिन्दी क्षत्रिय", "العربية من اليمين",
    "עִבְרִית שָׁלוֹם", "ไทยน้ำ", "Ελληνικά", "Русский текст", "🙂👩‍👩‍👧‍👦🏳️‍🌈👍🏽", "𝔘𝔫𝔦𝔠𝔬𝔡𝔢 𐍈", "\u202eabc\u202c\u200b\ufeff",
    "mixed 混合 смесь 🙃 ok", "a\r\n\tb\x00c",
]  # fmt: skip
Open = Callable[..., LLM]


@pytest.fixture(scope="module", params=MODELS)
def model_folders(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """One model, rounded to nearest, by format."""
    name: str = request.param
    source = "demo" if name == "demo" else str(request.getfixturevalue("shared") / "models" / name)
    group_size = -1 if name == "stories260K" else 32  # its 172 inputs are no multiple of 32
    options = ConvertOptions(formats=("openvino", "onnx"), group_size=group_size, recipe="rtn")
    folders = convert(source, tmp_path_factory.mktemp(name) / "out", options).folders
    return {folder.name: folder for folder in folders}


@pytest.fixture(params=["openvino", "onnx"])
def model_folder(request: pytest.FixtureRequest, model_folders: dict[str, Path]) -> Path:
    return model_folders[request.param]


def test_greedy_is_greedy(model_folder: Path) -> None:
    with LLM(model_folder, exact=True, threads=1) as llm:
        plain = [llm.generate(prompt, max_new_tokens=NEW_TOKENS).token_ids for prompt in PROMPTS]
        batch = [answer.token_ids for answer in llm.generate(PROMPTS, max_new_tokens=NEW_TOKENS)]
        texts = [llm.tokenizer.decode(ids) for ids in plain]
    assert batch == plain
    for options in ({"prompt_lookup": True}, {"draft_model": model_folder}):
        with LLM(model_folder, exact=True, threads=1, **options) as llm:
            answers = [answer.token_ids for answer in llm.generate(PROMPTS, max_new_tokens=NEW_TOKENS)]
            assert answers == plain, options
    with LLM(model_folder, exact=True, threads=1, prefix_cache=True) as llm:
        for prompt, text, ids in zip(
            PROMPTS, texts, plain, strict=True
        ):  # a conversation: each prompt grows by an answer
            llm.generate(prompt, max_new_tokens=NEW_TOKENS // 2)
            assert llm.generate(prompt, max_new_tokens=NEW_TOKENS).token_ids == ids
            longer = f"{prompt}{text} And then"
            resumed = llm.generate(longer, max_new_tokens=NEW_TOKENS)
            assert resumed.usage.cached_tokens > 0
            with LLM(model_folder, exact=True, threads=1) as fresh:
                assert resumed.token_ids == fresh.generate(longer, max_new_tokens=NEW_TOKENS).token_ids


def test_streams_are_their_texts(model_folders: dict[str, Path]) -> None:
    """200 prompts in many scripts; hot sampling, so that broken and rare bytes come too; stop strings of all kinds."""
    rng = random.Random(3)
    with LLM(model_folders["onnx"], threads=1) as llm:
        for case in range(200):
            prompt = "".join(rng.sample(SCRIPTS, 2))[: rng.randint(4, 30)]
            options = {"max_new_tokens": 12, "temperature": 3.0, "seed": case}
            pieces = list(llm.stream(prompt, **options))
            text = "".join(piece.text for piece in pieces)
            assert text == llm.tokenizer.decode([piece.token_id for piece in pieces])
            assert not any("\ufffd" in piece.text and "\ufffd" not in text for piece in pieces)
            start = rng.randrange(max(len(text) - 2, 1))
            stop = text[start : start + rng.randint(1, 4)]
            if stop:
                cut = [piece.text for piece in llm.stream(prompt, stop=stop, **options)]
                assert "".join(cut) == text[: text.find(stop)]
                assert not any(stop in "".join(cut[: end + 1]) for end in range(len(cut)))
