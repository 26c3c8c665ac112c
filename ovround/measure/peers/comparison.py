"""Two runtimes on the same tokens, measured alternately, so that other load on the machine affects both."""

from __future__ import annotations

import json
import queue
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from ovround.errors import EngineError, UsageError
from ovround.measure.bench_options import BenchOptions
from ovround.runtime.engines import check_folder
from ovround.runtime.model_info import read_model_info

WORKER = Path(__file__).with_name("worker.py")
PEERS = {  # package to install, and whether the peer reads ovround's folders
    "openvino-genai": ("openvino-genai", True),
    "onnxruntime-genai": ("onnxruntime-genai", True),
    "llama.cpp": ("llama-cpp-python", False),
    "optimum": ("optimum-intel[openvino]", True),
}
_TIME_LIMIT_S = 600.0  # for loading or for one run
_FIRST_IDS = 256  # prompts use only these ids, which every vocabulary has


@dataclass(frozen=True, slots=True)
class Side:
    """Figures of one side: medians over the rounds, in seconds."""

    label: str
    load_to_first_token_s: float
    """From the start of its process to the first token; files may be in the system's cache."""
    time_to_first_token_median_s: float
    time_per_output_token_median_s: float
    peak_memory_bytes: int | None


@dataclass(frozen=True, slots=True)
class Comparison:
    """Our figures and a peer's. A ratio is ours divided by the peer's, as median over the rounds."""

    prompt_tokens: int
    new_tokens: int
    rounds: int
    ours: Side
    peer: Side
    load_to_first_token_ratio: float
    time_to_first_token_ratio: float
    time_per_output_token_ratio: float
    peak_memory_ratio: float | None


@dataclass(frozen=True, slots=True)
class Contender:
    """Options of one side: a name of `worker.SIDES`, its model, and the Python that has its library."""

    name: str
    model: str
    threads: int | None = None
    device: str = "CPU"
    properties: Mapping[str, str] = field(default_factory=dict)
    exact: bool = False
    python: str = sys.executable


@dataclass(frozen=True, slots=True)
class Baseline:
    """The other runtime of a comparison. Raises UsageError for an unknown name or a model that does not exist."""

    name: str
    """One of `PEERS`."""
    model: Path | None = None
    """Its model; by default the folder that is measured."""
    python: Path | None = None
    """The interpreter that has it installed; by default this one."""
    threads: int | None = None
    """Its CPU threads; by default those of our side."""

    def __post_init__(self) -> None:
        if self.name not in PEERS:
            raise UsageError(f"baseline `{self.name}` is not known", hint=f"choose from {', '.join(PEERS)}")
        if self.model is not None and not self.model.exists():
            raise UsageError(f"baseline-model `{self.model}` does not exist")

    def contender(self, folder: Path, options: BenchOptions) -> Contender:
        """Its side of a comparison with `folder`."""
        return Contender(
            self.name, str(self.model or folder), options.threads if self.threads is None else self.threads,
            options.device, python=str(self.python or sys.executable),
        )  # fmt: skip


def _ours(folder: Path, options: BenchOptions) -> Contender:
    properties = {"kernel": options.kernel, "verify": "yes" if options.verify else "no"}
    return Contender("ovround", str(folder), options.threads, options.device, properties, options.exact)


def compare(
    folder: Path,
    baseline: Baseline,
    options: BenchOptions,
    on_round: Callable[[int, float, float], None] = lambda number, first, later: None,
) -> Comparison:
    """Measure `folder` and a baseline, each in its own process; every round measures both, in alternating order.

    `verify` and `kernel` of the options apply to our side, see `open_engine`. `on_round` gets each round's number and two ratios.
    Raises UsageError for a baseline that cannot read `folder` or a prompt that does not fit, EngineError if a side cannot be
    started or fails.
    """
    package, reads_ours = PEERS[baseline.name]
    if baseline.model is None and not reads_ours:
        raise UsageError(f"{baseline.name} does not read `{folder}`", hint="give its model with --baseline-model FILE")
    check_folder(folder)
    context = read_model_info(folder).context_length
    if options.prompt_tokens + options.new_tokens > context:
        raise UsageError(
            f"{options.prompt_tokens} prompt and {options.new_tokens} new tokens; the model's context is {context}"
        )
    prompt = np.random.default_rng(options.seed).integers(3, _FIRST_IDS, options.prompt_tokens).tolist()
    runners: list[Runner] = []
    try:
        for contender, install in ((_ours(folder, options), None), (baseline.contender(folder, options), package)):
            runners.append(Runner(contender, prompt, install))
        for number in range(options.repeat):
            pair = runners if number % 2 == 0 else runners[::-1]
            for runner in pair:
                runner.run(prompt, options.new_tokens)
            on_round(number, *(a[-1] / b[-1] for a, b in _pairs(*runners)))
    finally:
        for runner in runners:
            runner.close()
    ours, others = (runner.side() for runner in runners)
    first, later = (_median_ratio(a, b) for a, b in _pairs(*runners))
    memory = (
        None
        if ours.peak_memory_bytes is None or not others.peak_memory_bytes
        else ours.peak_memory_bytes / others.peak_memory_bytes
    )
    return Comparison(
        options.prompt_tokens, options.new_tokens, options.repeat, ours, others,
        ours.load_to_first_token_s / others.load_to_first_token_s, first, later, memory,
    )  # fmt: skip


class Runner:
    """A worker process; `first` and `later` collect each run's time to first token and median time per later token.

    Its start loads the model and runs `prompt` once as warm-up; raises EngineError if that fails. `install` names the package
    of a missing library.
    """

    def __init__(self, contender: Contender, prompt: list[int], install: str | None = None) -> None:
        self.contender, self._install = contender, install
        self.first: list[float] = []
        self.later: list[float] = []
        settings = {
            "model": contender.model, "threads": contender.threads, "device": contender.device,
            "properties": dict(contender.properties), "exact": contender.exact,
        }  # fmt: skip
        self._errors = tempfile.TemporaryFile("w+b")  # noqa: SIM115  # closed with the process
        start = time.perf_counter()
        self._process = subprocess.Popen(
            [contender.python, str(WORKER), contender.name, json.dumps(settings)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._errors, text=True, encoding="utf-8",
        )  # fmt: skip
        self._lines: queue.Queue[str] = queue.Queue()
        threading.Thread(target=self._listen, daemon=True).start()
        try:
            self.label = str(self._answer()["label"])
            answer = self._ask(prompt, 1)
        except BaseException:
            self.close()
            raise
        self.load_to_first_token_s = time.perf_counter() - start
        self._peak: int | None = answer["peak_memory_bytes"]

    def run(self, prompt: list[int], new_tokens: int) -> list[float]:
        """One measured run; returns the seconds per new token."""
        answer = self._ask(prompt, new_tokens)
        seconds: list[float] = answer["seconds"]
        self._peak = answer["peak_memory_bytes"]
        self.first.append(seconds[0])
        self.later.append(statistics.median(seconds[1:]))
        return seconds

    def side(self) -> Side:
        """The medians of all runs."""
        return Side(
            self.label,
            self.load_to_first_token_s,
            statistics.median(self.first),
            statistics.median(self.later),
            self._peak,
        )

    def close(self) -> None:
        """End the process."""
        self._process.kill()
        self._process.wait()
        for stream in (self._process.stdin, self._process.stdout, self._errors):
            if stream is not None:
                stream.close()

    def _ask(self, prompt: list[int], new_tokens: int) -> dict[str, Any]:
        if self._process.stdin is None:
            raise ValueError("the process has no input")
        self._process.stdin.write(json.dumps({"prompt": prompt, "new_tokens": new_tokens}) + "\n")
        self._process.stdin.flush()
        answer = self._answer()
        if len(answer["seconds"]) != new_tokens:
            raise EngineError(f"{self.contender.name} gave {len(answer['seconds'])} tokens instead of {new_tokens}")
        return answer

    def _listen(self) -> None:
        stream = self._process.stdout
        try:
            for line in stream or ():
                self._lines.put(line)
        except ValueError:  # `close` was called
            pass
        self._lines.put("")

    def _answer(self) -> dict[str, Any]:
        name = self.contender.name
        try:
            line = self._lines.get(timeout=_TIME_LIMIT_S)
        except queue.Empty:
            raise EngineError(f"{name} gave no answer within {_TIME_LIMIT_S:.0f} s") from None
        if not line:
            raise EngineError(f"{name} ended without an answer: {self._last_words()}")
        answer: dict[str, Any] = json.loads(line)
        if "error" in answer:
            missing = answer.get("missing") is not None and self._install is not None
            raise EngineError(
                f"{name} cannot run `{self.contender.model}`: {answer['error'].splitlines()[0]}",
                hint=f"pip install {self._install}, or name a Python that has it with --baseline-python"
                if missing
                else None,
            )
        return answer

    def _last_words(self) -> str:
        self._process.wait()
        self._errors.seek(0)
        lines = self._errors.read().decode(errors="replace").strip().splitlines()
        return lines[-1] if lines else f"exit status {self._process.returncode}"


def _pairs(mine: Runner, theirs: Runner) -> tuple[tuple[list[float], list[float]], tuple[list[float], list[float]]]:
    return (mine.first, theirs.first), (mine.later, theirs.later)


def _median_ratio(mine: list[float], theirs: list[float]) -> float:
    return statistics.median(a / b for a, b in zip(mine, theirs, strict=True))
