"""lm-evaluation-harness on our folders: transformers' scores on the same items, in process and over HTTP; and refusals."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

os.environ["HF_HUB_OFFLINE"] = os.environ["HF_DATASETS_OFFLINE"] = "1"  # read when the libraries are imported
pytest.importorskip("lm_eval")

from ovround.checkpoint.locate import DEMO_FOLDER
from ovround.conversion.convert import convert
from ovround.errors import CalibrationError, UsageError
from ovround.measure.lm_eval_harness import OvroundLM, TaskScore, evaluate_tasks, score_tasks
from ovround.options.convert_options import ConvertOptions

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]  # the harness and what it imports warn freely
WORDS = "The with statement is used to wrap the execution of a block with methods defined by a context manager"


@pytest.fixture(scope="module")
def tasks(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    folder = tmp_path_factory.mktemp("tasks")
    words = WORDS.split()
    texts = [{"text": " ".join(words[: 6 + index])} for index in range(10)]
    pairs = [
        {"query": f"Question: {' '.join(words[:5])}", "choices": [words[index], words[-index]], "gold": index % 2}
        for index in range(1, 9)
    ]
    for name, rows in (("lambada", texts), ("piqa", pairs)):
        (folder / f"{name}.jsonl").write_text("\n".join(map(json.dumps, rows)) + "\n")
    return [f"{name}={folder / name}.jsonl" for name in ("lambada", "piqa")]


@pytest.fixture(scope="module")
def unquantised(tmp_path_factory: pytest.TempPathFactory) -> Path:
    options = ConvertOptions(formats=("onnx",), bits=16, embedding_bits=16, lm_head_bits=16)
    return convert("demo", tmp_path_factory.mktemp("bits16") / "out", options).folders[0]


def values(scores: list[TaskScore]) -> dict[tuple[str, str], float]:
    return {(score.task, score.metric): score.value for score in scores}


def transformers_own(add_bos_token: bool | None) -> Any:
    from lm_eval.models.huggingface import HFLM

    return HFLM(
        pretrained=str(DEMO_FOLDER), device="cpu", dtype="float32", batch_size=1, add_bos_token=add_bos_token
    )  # fmt: skip


@pytest.mark.parametrize("add_bos_token", [None, False])
def test_scores_are_those_of_transformers(tasks: list[str], unquantised: Path, add_bos_token: bool | None) -> None:
    ours = evaluate_tasks(str(unquantised), tasks, add_bos_token=add_bos_token)
    theirs = score_tasks(lambda: transformers_own(add_bos_token), tasks)
    assert {(score.task, score.items) for score in ours} == {("lambada", 10), ("piqa", 8)}
    assert values(ours) == pytest.approx(values(theirs), rel=1e-4)
    assert values(ours)["lambada", "perplexity"] != values(ours)["piqa", "acc"]


@pytest.mark.parametrize("add_bos_token", [None, False])
def test_answers_are_those_of_transformers_with_one_bos(unquantised: Path, add_bos_token: bool | None) -> None:
    """Also of a prompt that begins with it, as one does that a chat template rendered."""
    from lm_eval.api.instance import Instance

    options = {"until": ["\n\n"], "max_gen_toks": 8}
    prompts = ["Return the number of", "<s>Return the number of"]
    requests = [Instance("generate_until", {}, (prompt, options), index) for index, prompt in enumerate(prompts)]
    ours = OvroundLM(str(unquantised), exact=True, add_bos_token=add_bos_token)
    try:
        answers = ours.generate_until(requests)
        lengths = [len(ours.tok_encode(prompt)) for prompt in prompts]
    finally:
        ours.close()
    assert answers == transformers_own(add_bos_token).generate_until(requests)
    assert lengths[1] - lengths[0] == (0 if add_bos_token is None else 1)


def test_a_limit_and_errors(tasks: list[str], unquantised: Path, tmp_path: Path) -> None:
    assert evaluate_tasks(str(unquantised), tasks[:1], limit=3)[0].items == 3
    (tmp_path / "other.jsonl").write_text('{"words": 1}\n')
    for task, error in (
        ("x=missing.jsonl", CalibrationError), (f"x={tmp_path / 'other.jsonl'}", CalibrationError), ("nosuchtask", UsageError)
    ):  # fmt: skip
        with pytest.raises(error):
            evaluate_tasks(str(unquantised), [task])
    with pytest.raises(UsageError, match="limit is 0"):
        evaluate_tasks(str(unquantised), tasks, limit=0)
