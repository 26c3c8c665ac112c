"""One side of a comparison: a program that loads a model and times its runs, in the environment of its library.

    python worker.py SIDE '{"model": "folder", "threads": 2}'

Input is one line of JSON per run, `{"prompt": [token ids], "new_tokens": 64}`. The output line of a run has the seconds per new
token, the first with the prefill: batch 1, greedy, end tokens ignored, no cache between runs. The first line of output names
the loaded runtime. The program ends with its input. Messages of libraries go to stderr.
"""

from __future__ import annotations

import importlib
import json
import os
import sys
import time
import warnings
from itertools import pairwise
from pathlib import Path
from typing import Any

OPEN_OPTIONS = ("kernel", "verify")
"""Properties of our own side that are arguments of `open_engine`; `verify` is yes or no."""


class Ours:
    """ovround's own engine."""

    def __init__(self, model: str, threads: int | None, device: str, properties: dict[str, str], exact: bool) -> None:
        from ovround import __version__
        from ovround.runtime.engines import open_engine

        ours = {name: properties.pop(name) for name in OPEN_OPTIONS if name in properties}
        verify = ours.pop("verify", "yes") == "yes"
        self._engine = open_engine(
            Path(model), device, exact=exact, threads=threads, properties=properties, verify=verify, **ours
        )
        self.label = f"ovround {__version__}, {self._engine.device}"

    def run(self, prompt: list[int], new_tokens: int) -> list[float]:
        from ovround.measure.benchmark import time_stamps

        return time_stamps(self._engine, [prompt], new_tokens)


class OpenVINOGenAI:
    """openvino_genai's LLMPipeline with its defaults, but without prefix caching, which would shorten later runs."""

    def __init__(self, model: str, threads: int | None, device: str, properties: dict[str, str], exact: bool) -> None:
        import openvino as ov
        import openvino_genai as genai

        options: dict[str, Any] = dict(properties)
        if threads is not None:
            options["INFERENCE_NUM_THREADS"] = threads
        scheduler = genai.SchedulerConfig()
        scheduler.enable_prefix_caching = False
        self._ov, self._genai = ov, genai
        self._pipeline = genai.LLMPipeline(model, device, scheduler_config=scheduler, **options)
        self.label = f"openvino_genai {genai.__version__}"

    def run(self, prompt: list[int], new_tokens: int) -> list[float]:
        import numpy as np

        genai, times = self._genai, [0.0]

        class Stamps(genai.StreamerBase):  # type: ignore[misc, name-defined]
            def write(self, token: int | list[int]) -> Any:
                times.extend([time.perf_counter()] * (1 if isinstance(token, int) else len(token)))
                return genai.StreamingStatus.RUNNING

            def end(self) -> None:
                pass

        config = genai.GenerationConfig()
        config.max_new_tokens, config.ignore_eos, config.do_sample = new_tokens, True, False
        ids = self._ov.Tensor(np.array([prompt], np.int64))
        times[0] = time.perf_counter()
        self._pipeline.generate(ids, config, Stamps())
        return times


class OnnxRuntimeGenAI:
    """onnxruntime-genai with the settings of its configuration file, except for `threads`."""

    def __init__(self, model: str, threads: int | None, device: str, properties: dict[str, str], exact: bool) -> None:
        import onnxruntime_genai as genai

        config = genai.Config(model)
        options: dict[str, Any] = dict(properties)
        if threads is not None:
            options["intra_op_num_threads"] = threads
        if options:
            config.overlay(json.dumps({"model": {"decoder": {"session_options": options}}}))
        self._genai, self._model = genai, genai.Model(config)
        self.label = f"onnxruntime-genai {genai.__version__}"

    def run(self, prompt: list[int], new_tokens: int) -> list[float]:
        parameters = self._genai.GeneratorParams(self._model)
        length = len(prompt) + new_tokens
        parameters.set_search_options(do_sample=False, min_length=length, max_length=length)
        generator = self._genai.Generator(self._model, parameters)
        times = [time.perf_counter()]
        generator.append_tokens(prompt)
        for _ in range(new_tokens):
            generator.generate_next_token()
            times.append(time.perf_counter())
        return times


class LlamaCpp:
    """llama.cpp through llama-cpp-python, which pip compiles for this machine."""

    def __init__(self, model: str, threads: int | None, device: str, properties: dict[str, str], exact: bool) -> None:
        import llama_cpp

        counts = {} if threads is None else {"n_threads": threads, "n_threads_batch": threads}
        self._llama = llama_cpp.Llama(model, n_ctx=0, n_gpu_layers=0, verbose=False, **counts)
        self.label = f"llama.cpp, llama-cpp-python {llama_cpp.__version__}"

    def run(self, prompt: list[int], new_tokens: int) -> list[float]:
        llama = self._llama
        llama.reset()
        times = [time.perf_counter()]
        llama.eval(prompt)
        for number in range(new_tokens):
            token = llama.sample(temp=0.0)
            times.append(time.perf_counter())
            if number < new_tokens - 1:
                llama.eval([token])
        return times


class Optimum:
    """optimum-intel's OVModelForCausalLM with transformers' generate."""

    def __init__(self, model: str, threads: int | None, device: str, properties: dict[str, str], exact: bool) -> None:
        import optimum.intel

        options: dict[str, Any] = dict(properties)
        if threads is not None:
            options["INFERENCE_NUM_THREADS"] = threads
        self._model = optimum.intel.OVModelForCausalLM.from_pretrained(
            model, device=device, ov_config=options, trust_remote_code=False
        )
        self.label = f"optimum-intel {optimum.intel.__version__}"

    def run(self, prompt: list[int], new_tokens: int) -> list[float]:
        torch = importlib.import_module("torch")  # by name: only the peer needs torch
        times: list[float] = []

        class Stamps:  # generate() calls `put` with the prompt, then with each token
            def put(self, value: object) -> None:
                times.append(time.perf_counter())

            def end(self) -> None:
                pass

        ids = torch.tensor([prompt])
        self._model.generate(
            ids, attention_mask=torch.ones_like(ids), do_sample=False, num_beams=1, min_new_tokens=new_tokens,
            max_new_tokens=new_tokens, streamer=Stamps(),
        )  # fmt: skip
        return times


SIDES: dict[str, type[Ours | OpenVINOGenAI | OnnxRuntimeGenAI | LlamaCpp | Optimum]] = {
    "ovround": Ours,
    "openvino-genai": OpenVINOGenAI,
    "onnxruntime-genai": OnnxRuntimeGenAI,
    "llama.cpp": LlamaCpp,
    "optimum": Optimum,
}


def peak_memory_bytes() -> int | None:
    """Peak resident memory of this process; None on Windows."""
    if sys.platform == "win32":
        return None
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def main() -> None:
    answers = os.fdopen(os.dup(1), "w", buffering=1, encoding="utf-8")
    os.dup2(2, 1)  # what libraries print must not look like an answer

    def answer(**fields: Any) -> None:
        answers.write(json.dumps(fields) + "\n")

    settings = {"threads": None, "device": "CPU", "properties": {}, "exact": False, **json.loads(sys.argv[2])}
    try:
        side = SIDES[sys.argv[1]](**settings)
        answer(label=side.label)
        for line in sys.stdin:
            task = json.loads(line)
            times = side.run(task["prompt"], task["new_tokens"])
            seconds = [after - before for before, after in pairwise(times)]
            answer(seconds=seconds, peak_memory_bytes=peak_memory_bytes())
    except Exception as error:  # noqa: BLE001  # the parent process reports any error of the library
        missing = error.name if isinstance(error, ImportError) else None
        answer(error=f"{type(error).__name__}: {error}", missing=missing)


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    main()
