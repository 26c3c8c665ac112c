"""lm-evaluation-harness on our folders: transformers' scores on the same items, in process and over HTTP; and refusals."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

os.environ["HF_HUB_OFFLINE"] = os.environ["HF_DATASETS_OFFLINE"] = "1"  # read when the libraries are imported
pytest.importorskip("lm_eval")

from ovround.checkpoint.locate import DEMO_FOLDER
from ovround.conversion.convert import convert
from ovround.errors import CalibrationError, UsageError
from ovround.measure.lm_eval_harness import TaskScore, evaluate_tasks, score_tasks
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


def test_scores_are_those_of_transformers(tasks: list[str], unquantised: Path) -> None:
    from lm_eval.models.huggingface import HFLM

    ours = evaluate_tasks(str(unquantised), tasks)
    theirs = score_tasks(lambda: HFLM(pretrained=str(DEMO_FOLDER), device="cpu", dtype="float32", batch_size=1), tasks)
    assert {(score.task, score.items) for score in ours} == {("lambada", 10), ("piqa", 8)}
    assert values(ours) == pytest.approx(values(theirs), rel=1e-4)
    assert values(ours)["lambada", "perplexity"] != values(ours)["piqa", "acc"]


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
