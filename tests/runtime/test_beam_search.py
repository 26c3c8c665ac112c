"""Beam search against transformers', and what it does not go with."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from ovround.errors import UsageError
from ovround.runtime import LLM, SamplingOptions

PROMPTS = ["the cat", "once upon a time", "a story of the"]


@pytest.fixture(scope="module")
def theirs(tiny: Any) -> Any:
    """transformers' model of the tiny weights."""
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(**json.loads((tiny[0] / "config.json").read_text()))
    model = LlamaForCausalLM(config).eval()
    missing = model.load_state_dict({name: torch.from_numpy(values) for name, values in tiny[1].items()}, strict=False)
    assert set(missing.missing_keys) <= {"lm_head.weight"}
    assert not missing.unexpected_keys
    model.tie_weights()
    return model


@pytest.mark.parametrize(("beams", "penalty"), [(2, 1.0), (4, 1.0), (5, 0.0), (3, 2.0), (4, -1.0)])
def test_as_transformers_does(folder: Path, theirs: Any, beams: int, penalty: float) -> None:
    with LLM(folder, exact=True, threads=1) as llm:
        likely = llm.generate("the cat", max_new_tokens=8).token_ids[3]  # an end token that is met
        for ends in ([2], [2, likely]):
            for prompt in PROMPTS:
                ids = llm.tokenizer.encode(prompt)
                with torch.no_grad():
                    expected = theirs.generate(
                        torch.tensor([ids]), attention_mask=torch.ones(1, len(ids), dtype=torch.long), num_beams=beams,
                        length_penalty=penalty, max_new_tokens=12, do_sample=False, eos_token_id=ends, pad_token_id=0,
                    )[0, len(ids) :].tolist()  # fmt: skip
                completion = llm.generate(
                    prompt, num_beams=beams, length_penalty=penalty, max_new_tokens=12, stop_token_ids=ends[1:]
                )
                assert list(completion.token_ids) == expected
                assert completion.finish_reason == ("stop" if expected[-1] in ends else "length")
                assert completion.text == llm.tokenizer.decode(completion.token_ids)


def test_of_a_list_each_alone(folder: Path) -> None:
    with LLM(folder, exact=True, threads=1) as llm:
        alone = [llm.generate(prompt, num_beams=3, max_new_tokens=8).token_ids for prompt in PROMPTS]
        assert [completion.token_ids for completion in llm.generate(PROMPTS, num_beams=3, max_new_tokens=8)] == alone
        with pytest.raises(UsageError, match="num_beams"):
            llm.stream("the cat", num_beams=3)


@pytest.mark.parametrize(
    ("field", "value"),
    [("temperature", 0.5), ("stop", ("x",)), ("logprobs", 1), ("logit_bias", ((1, 2.0),)), ("top_k", 3)],
)
def test_what_beams_do_not_go_with(field: str, value: Any) -> None:
    with pytest.raises(UsageError, match=rf"{field} is .*num_beams"):
        SamplingOptions(num_beams=2, **{field: value})
