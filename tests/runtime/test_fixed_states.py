"""Models whose state has a fixed size: long prompts, going back by copies, guesses, chats, beams; LFM2 and a Mamba hybrid."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from random_model import CONFIGS, relative_rms, write_random_model

from ovround.artifact.manifest import ENGINE_FORMATS
from ovround.conversion.convert import convert
from ovround.errors import UsageError
from ovround.options.convert_options import ConvertOptions
from ovround.runtime import LLM
from ovround.runtime.engine import Engine
from ovround.runtime.engines import open_engine
from ovround.runtime.server.engine_choice import choose_engine
from ovround.runtime.server.settings import EngineOptions

TOLERANCE = 2e-5  # as in test_families
# A convolution, a scan and attention in each block.
CONFIG = {**CONFIGS["falcon_h1-0"], "max_position_embeddings": 1024}
IDS = np.random.default_rng(5).integers(3, 320, (2, 700))


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("hybrid")
    write_random_model(folder / "model", CONFIG)
    options = ConvertOptions(formats=ENGINE_FORMATS, group_size=32, recipe="rtn")
    return dict(zip(ENGINE_FORMATS, convert(folder / "model", folder / "out", options).folders, strict=True))


DEVICES = {**dict.fromkeys(ENGINE_FORMATS, "CPU"), "hpu-emulated": "hpu-emulated"}


# On HPU each test compiles a dozen graphs; `test_hpu` runs every family's step without.
@pytest.fixture(scope="module", params=[*ENGINE_FORMATS, pytest.param("hpu-emulated", marks=pytest.mark.slow)])
def place(request: pytest.FixtureRequest, folders: dict[str, Path]) -> tuple[Path, str]:
    """A folder and the device that runs it."""
    return folders.get(request.param, folders["onnx"]), DEVICES[request.param]


def opened(place: tuple[Path, str]) -> Engine:
    folder, device = place
    return open_engine(folder, device, exact=True, threads=1 if device == "CPU" else None)


def test_a_server_does_not_batch_what_paged_attention_has_no_state_for(folders: dict[str, Path]) -> None:
    choice = choose_engine(folders["openvino"], EngineOptions())
    assert (choice.name, "no state like the model's `scan`" in choice.reason) == ("single", True)
    with pytest.raises(UsageError, match="the batching engine cannot run this"):
        choose_engine(folders["openvino"], EngineOptions("batching"))


def test_a_long_prompt_in_pieces(place: tuple[Path, str]) -> None:
    """Beyond a piece of 256 tokens, at once, on top of a cache, and in a batch of unequal prompts."""
    engine = opened(place)
    expected = engine.logits(IDS)
    engine.prefill([row[:600].tolist() for row in IDS])
    assert relative_rms(engine.extend([row[600:690].tolist() for row in IDS]), expected[:, 600:690]) <= TOLERANCE
    engine.reset()
    engine.prefill([IDS[0, :300].tolist(), IDS[1, :7].tolist()])
    following = engine.prefill([IDS[0, 300:305].tolist(), IDS[1, 7:297].tolist()])
    assert relative_rms(following, np.stack([expected[0, 304], expected[1, 296]])) <= TOLERANCE
    engine.close()


def test_going_back_computes_what_follows_a_copy_and_no_more(
    place: tuple[Path, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = opened(place)
    expected = engine.logits(IDS)
    computed: list[int] = []
    name = "_steps" if place[1] != "CPU" else "_run"
    run = getattr(type(engine), name)

    def counted(self: Any, *arguments: Any, **named: Any) -> Any:
        given = arguments[0 if name == "_steps" else 1]  # rows, ids or inputs
        ids = given["input_ids"] if isinstance(given, Mapping) else given
        computed.append(len(ids[0]))
        return run(self, *arguments, **named)

    monkeypatch.setattr(type(engine), name, counted)
    engine.prefill([IDS[0, :40].tolist()])
    engine.extend([IDS[0, 40:46].tolist()])  # guesses, of which two are right
    computed.clear()
    engine.rewind([42])
    assert computed == [2]
    assert relative_rms(engine.decode([int(IDS[0, 42])]), expected[:1, 42]) <= TOLERANCE
    computed.clear()
    engine.rewind([40])  # the end of the prompt
    assert computed == []
    assert relative_rms(engine.decode([int(IDS[0, 40])]), expected[:1, 40]) <= TOLERANCE
    computed.clear()
    engine.rewind([30])  # before every copy
    assert sum(computed) == 30
    assert relative_rms(engine.decode([int(IDS[0, 30])]), expected[:1, 30]) <= TOLERANCE
    engine.keep([0, 0])
    engine.prefill([[5, 6], [7, 8]])
    engine.rewind([31, 31])
    assert relative_rms(engine.decode([int(IDS[0, 31])] * 2), expected[[0, 0], 31]) <= TOLERANCE
    engine.close()


def test_guesses_chats_and_beams_give_the_answers_of_a_plain_run(place: tuple[Path, str]) -> None:
    folder, device = place
    options: dict[str, Any] = {"device": device, "exact": True, "threads": 1 if device == "CPU" else None}
    text = "one two three one two three one two"
    with LLM(folder, **options) as llm:
        plain = llm.generate(text, max_new_tokens=24, ignore_eos=True)
        other = llm.generate(text + " four", max_new_tokens=12, ignore_eos=True)
        beams = llm.generate(text, max_new_tokens=6, num_beams=3, ignore_eos=True)
    with LLM(folder, **options, prompt_lookup=True) as llm:
        guessed = llm.generate(text, max_new_tokens=24, ignore_eos=True)
        assert guessed.token_ids == plain.token_ids
        assert llm.generate(text + " four", max_new_tokens=12, ignore_eos=True).token_ids == other.token_ids
    with LLM(folder, **options, draft_model=folder) as llm:
        drafted = llm.generate(text, max_new_tokens=24, ignore_eos=True)
        assert drafted.token_ids == plain.token_ids
        assert llm.generate(text, max_new_tokens=6, num_beams=3, ignore_eos=True).token_ids == beams.token_ids
