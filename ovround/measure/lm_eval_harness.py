"""lm-evaluation-harness on converted folders: its model class, and tasks from local files.

    lm_eval.simple_evaluate(model=OvroundLM("out"), tasks=["lambada_openai"])
    evaluate_tasks("out", ["lambada=lambada.jsonl", "piqa=piqa.jsonl"], limit=100)

Importing this module registers the class as `ovround`. It cuts and scores texts as the harness's own class for transformers
does, so that scores can be compared item by item. It needs the extra `lm-eval`.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from json import JSONDecodeError, loads
from pathlib import Path
from typing import Any

from ovround.checkpoint import locate
from ovround.errors import CalibrationError, MissingExtraError, UsageError
from ovround.runtime import LLM
from ovround.runtime.engine import check_ids

try:
    from lm_eval import simple_evaluate
    from lm_eval.api.model import TemplateLM
    from lm_eval.api.registry import register_model
    from lm_eval.tasks import TaskManager
    from lm_eval.utils import get_rolling_token_windows, make_disjoint_window
except ModuleNotFoundError as error:
    raise MissingExtraError(error.name or "lm_eval", "lm-eval") from error

OnItems = Callable[[int, int], None]
"""Receives the number of items scored so far and the number of all, for each kind of task."""

_NEW_TOKENS = 256  # the harness's limit for an answer when the task has none
_COUNT_SUFFIX = ",none"  # ends the harness's names of metrics that have no filter
_FORMS: dict[frozenset[str], dict[str, Any]] = {
    frozenset({"text"}): {
        "output_type": "loglikelihood",
        "doc_to_text": "{{text.split(' ')[:-1]|join(' ')}}",
        "doc_to_target": "{{' '+text.split(' ')[-1]}}",
        "metric_list": [{"metric": "perplexity"}, {"metric": "acc"}],
    },
    frozenset({"query", "choices", "gold"}): {
        "output_type": "multiple_choice",
        "doc_to_text": "{{query}}\nAnswer:",
        "doc_to_choice": "{{choices}}",
        "doc_to_target": "{{gold}}",
        "metric_list": [{"metric": "acc"}, {"metric": "acc_norm"}],
    },
}


@dataclass(frozen=True, slots=True)
class TaskScore:
    """One metric of one task over `items` items; `standard_error` is None where the harness gives none."""

    task: str
    metric: str
    value: float
    standard_error: float | None
    items: int


@register_model("ovround")
class OvroundLM(TemplateLM):  # type: ignore[misc]  # the harness is not typed
    """A converted folder as a model of the harness; `exact` computes in float32. Close it after use.

    `add_bos_token` is that of the harness's class for transformers: None for what the tokenizer adds to a text by itself.
    """

    def __init__(
        self, folder: str, device: str = "CPU", exact: bool = False, add_bos_token: bool | None = None, *,
        on_items: OnItems = lambda done, total: None, **ignored: Any,
    ) -> None:  # fmt: skip
        """`ignored` takes the options that the harness passes to every model: batch_size, max_batch_size."""
        super().__init__()
        self._on_items = on_items
        self._add_bos_token = add_bos_token
        self._llm = LLM(locate(folder), device, exact=exact)
        self._folder = folder
        names = self._llm.tokenizer.special_tokens
        ids = [self._llm.tokenizer.special_id(names.get(key, "")) for key in ("bos_token", "eos_token")]
        special_ids = [token_id for token_id in ids if token_id is not None]
        self._prefix, self._end = (special_ids[0], special_ids[-1]) if special_ids else (0, 0)

    @property
    def eot_token_id(self) -> int:
        return self._end

    @property
    def prefix_token_id(self) -> int:
        return self._prefix

    @property
    def tokenizer_name(self) -> str:
        return self._folder

    def tok_encode(self, string: str, add_special_tokens: bool | None = None, **ignored: Any) -> list[int]:
        begins = string.startswith(self._llm.tokenizer.decode([self._prefix], skip_special_tokens=False) or "\0")
        wanted = not begins and self._add_bos_token is not False
        special = wanted if add_special_tokens is None else add_special_tokens
        return self._llm.tokenizer.encode(string, add_special_tokens=special)

    def apply_chat_template(self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True) -> str:
        return self._llm.tokenizer.render_chat(chat_history, add_generation_prompt=add_generation_prompt)

    def _loglikelihood_tokens(
        self, requests: Sequence[tuple[Any, list[int], list[int]]], disable_tqdm: bool = False, **ignored: Any
    ) -> list[tuple[float, bool]]:
        scores = []
        for number, (request, context, continuation) in enumerate(requests):
            self._on_items(number, len(requests))
            scores.append(self._score(context, continuation))
            self.cache_hook.add_partial("loglikelihood", request, scores[-1])
        return scores

    def _score(self, context: list[int], continuation: list[int]) -> tuple[float, bool]:
        """Log-likelihood of `continuation`, and whether greedy decoding gives the same tokens."""
        if not continuation:
            return 0.0, True
        ids = (context + continuation)[-self._llm.context_length :]
        check_ids([ids], self._llm.vocab_size)
        scored = self._llm.score(ids, 1)[-len(continuation) :]
        return sum(token.logprob for token in scored), all(token.top[0][0] == token.token_id for token in scored)

    def loglikelihood_rolling(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[float]:
        log_likelihoods = []
        for number, request in enumerate(requests):
            self._on_items(number, len(requests))
            (text,) = request.args
            spans = get_rolling_token_windows(
                token_list=self.tok_encode(text), prefix_token=self._prefix,
                max_seq_len=self._llm.context_length - 1, context_len=1,
            )  # fmt: skip
            parts = [self._score(*make_disjoint_window(span))[0] for span in spans]
            log_likelihoods.append(sum(parts))
            self.cache_hook.add_partial("loglikelihood_rolling", (text,), log_likelihoods[-1])
        return log_likelihoods

    def generate_until(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[str]:
        answers = []
        for number, request in enumerate(requests):
            self._on_items(number, len(requests))
            text, options = request.args
            until = options.get("until") or []
            ids = self.tok_encode(text)
            room = max(self._llm.context_length - len(ids), 1)
            wanted = int(options.get("max_gen_toks", _NEW_TOKENS))
            temperature = float(options.get("temperature") or 0.0) if options.get("do_sample") else 0.0
            pieces = self._llm.stream(
                ids, max_new_tokens=min(wanted, room), temperature=temperature, seed=0,
                stop=(until,) if isinstance(until, str) else tuple(until),
            )  # fmt: skip
            answers.append("".join(piece.text for piece in pieces))
            self.cache_hook.add_partial("generate_until", request.args, answers[-1])
        return answers

    def close(self) -> None:
        """Release the model."""
        self._llm.close()


def evaluate_tasks(
    model: str, tasks: Sequence[str], *, device: str = "CPU", exact: bool = True, add_bos_token: bool | None = None,
    limit: int | None = None, fewshot: int = 0, task_folder: Path | None = None,
    on_items: OnItems = lambda done, total: None,
) -> list[TaskScore]:  # fmt: skip
    """Scores of `model` on `tasks`: tasks of the harness, tasks in `task_folder`, or `NAME=FILE.jsonl`.

    A file has one JSON object a line. It has either `text`, whose last word the model predicts (LAMBADA), or `query`,
    `choices` and `gold`, the index of the right choice (PIQA and the like). `limit` counts items. Raises UsageError for an
    unknown task, and CalibrationError for a file with other fields.
    """

    def open_model() -> OvroundLM:
        return OvroundLM(model, device, exact, add_bos_token, on_items=on_items)

    return score_tasks(open_model, tasks, limit=limit, fewshot=fewshot, folder=task_folder)


def score_tasks(
    open_model: Any, tasks: Sequence[str], *, limit: int | None = None, fewshot: int = 0, folder: Path | None = None
) -> list[TaskScore]:
    """`evaluate_tasks` for any model of the harness; `open_model` is called after all tasks were checked."""
    if not tasks:
        raise UsageError("no task was given", hint="--tasks lambada=FILE.jsonl")
    if limit is not None and limit < 1:
        raise UsageError(f"limit is {limit}; a whole number of 1 or more is needed")
    logging.getLogger("lm_eval").setLevel(logging.ERROR)
    local = dict(_local_task(task) for task in tasks if "=" in task)
    named = [task for task in tasks if "=" not in task]
    manager = TaskManager(include_path=None if folder is None else str(folder))
    unknown = next((task for task in named if task not in manager.all_tasks), None)
    if unknown is not None:
        raise UsageError(f"`{unknown}` is no task of lm-eval", hint="a file is given as NAME=FILE.jsonl")
    lm = open_model()
    try:
        output = simple_evaluate(
            model=lm, tasks=[*named, *local.values()], limit=limit, num_fewshot=fewshot, task_manager=manager,
            bootstrap_iters=0, log_samples=False, verbosity="ERROR",
        )  # fmt: skip
    finally:
        if isinstance(lm, OvroundLM):
            lm.close()
    return _scores(output["results"], output["n-samples"])


def _local_task(text: str) -> tuple[str, dict[str, Any]]:
    """The harness's configuration of `NAME=FILE.jsonl`."""
    name, _, file = text.partition("=")
    path = Path(file)
    try:
        with path.open(encoding="utf-8") as lines:
            first = [loads(line) for line in islice(lines, 1)]
    except (OSError, UnicodeDecodeError, JSONDecodeError) as error:
        raise CalibrationError(f"task file `{path}` cannot be read: {error}") from error
    fields = set(first[0]) if first and isinstance(first[0], dict) else set()
    form = next((config for wanted, config in _FORMS.items() if wanted <= fields), None)
    if not name or form is None:
        raise CalibrationError(
            f"task file `{path}` has the fields {sorted(fields)}",
            hint="`text`, or `query`, `choices` and `gold`, are needed",
        )
    source = {"dataset_path": "json", "dataset_kwargs": {"data_files": {"test": str(path.absolute())}}}
    return name, {"task": name, "test_split": "test", **source, **form}


def _scores(results: Mapping[str, Mapping[str, Any]], samples: Mapping[str, Mapping[str, int]]) -> list[TaskScore]:
    scores = []
    for task, values in results.items():
        for key, value in values.items():
            metric = key.removesuffix(_COUNT_SUFFIX)
            if not key.endswith(_COUNT_SUFFIX) or metric.endswith("_stderr") or not isinstance(value, int | float):
                continue
            error = values.get(f"{metric}_stderr{_COUNT_SUFFIX}")
            items = samples[task]["effective"]
            scores.append(TaskScore(task, metric, float(value), error if isinstance(error, float) else None, items))
    return scores
