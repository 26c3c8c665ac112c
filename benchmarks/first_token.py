"""From the command to the first token: `ovround run NAME PROMPT` with an empty cache and with a full one, beside other programs.

    python benchmarks/first_token.py FOLDER [NAME ...] [--rounds 5] [--threads 2]

FOLDER holds for each NAME a Hugging Face folder `NAME/` and a GGUF file `NAME.gguf`. A local server that speaks the hub's protocol
gives both. A row is the wall time from the start of a process to the first byte that it writes:

- first start: nothing is downloaded, converted or measured yet; the hub's folder, and its GGUF file
- second start: no network, what the first start kept
- transformers: `from_pretrained` of the folder, in the type that it is stored in
- llama.cpp: the prebuilt ik-llama-cpp-python on the GGUF file

All of them answer the same rendered prompt. Sides take turns, and each round begins with another one. Files are read once before, so
that none pays for the disk alone. Asserts that a second start is quicker than the first. The last line is one JSON document.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from importlib.metadata import version
from pathlib import Path

import peers

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests" / "support"))
from hub_server import HubServer

MODELS = ("smollm2-135m", "gemma3-270m", "qwen2.5-0.5b")
PROMPT = "What is the capital of France?"
SIDES = ("ovround, folder", "ovround, GGUF", "transformers", "llama.cpp")
NO_HUB = "http://127.0.0.1:9"  # nobody listens there
_OURS = ("-m", "ovround", "run")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("names", nargs="*", default=list(MODELS))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--prompt", default=PROMPT)
    parser.add_argument("--cache", type=Path, help="folder of the peers' environments")
    given = parser.parse_args()
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: given.threads])  # of all processes that are started here
    peer = peers.python("ik-llama-cpp", given.cache)
    rows = [row for name in given.names for row in measured(name, given, peer)]
    print(f"\nseconds to the first token, medians of {given.rounds} rounds, {given.threads} threads\n")
    print("| model | " + " | ".join(rows_of(rows, given.names[0])) + " |")
    print("| --- |" + " --- |" * len(rows_of(rows, given.names[0])))
    for name in given.names:
        print(f"| {name} | " + " | ".join(f"{seconds:.2f}" for seconds in rows_of(rows, name).values()) + " |")
    print(
        json.dumps(
            {"benchmark": "first_token", "machine": machine(given.threads), "rounds": given.rounds, "rows": rows}
        )
    )
    for name in given.names:
        medians = rows_of(rows, name)
        for side in SIDES[:2]:
            assert medians[f"{side}, second start"] < medians[f"{side}, first start"], (name, side)


def measured(name: str, given: argparse.Namespace, peer: Path) -> Iterator[dict[str, object]]:
    """The rows of one model."""
    source, gguf = (given.folder / name).absolute(), (given.folder / f"{name}.gguf").absolute()
    prompt = rendered(source, given.prompt)
    seconds: dict[str, list[float]] = {}
    with tempfile.TemporaryDirectory() as scratch, HubServer({}) as hub:
        files = Path(scratch) / "gguf"
        files.mkdir()
        (files / gguf.name).symlink_to(gguf)
        hub.repositories |= {f"local/{name}": source, f"local/{name}-GGUF": files}
        for repository, folder in hub.repositories.items():  # which also brings the files into memory
            hub.commit(repository)
            for file in folder.iterdir():
                hub.digest(repository, file.name)
        for number in range(given.rounds):
            turn = number % len(SIDES)
            for side in (*SIDES[turn:], *SIDES[:turn]):
                if side == "transformers":
                    command = [sys.executable, str(peers.WORKERS / "transformers_first_token.py"), str(source), prompt]
                    seconds.setdefault(side, []).append(first_byte_s(command, {"HF_HUB_OFFLINE": "1"}))
                elif side == "llama.cpp":
                    worker = str(peers.WORKERS / "llama_cpp_first_token.py")
                    command = [str(peer), "-I", worker, str(gguf), prompt, str(given.threads)]
                    seconds.setdefault(side, []).append(first_byte_s(command, {}))
                else:
                    model = f"local/{name}" if side == SIDES[0] else f"local/{name}-GGUF:{gguf.name}"
                    first, second = starts(model, prompt, hub)
                    seconds.setdefault(f"{side}, first start", []).append(first)
                    seconds.setdefault(f"{side}, second start", []).append(second)
                print(
                    f"{name}, round {number + 1}, {side}: {next(reversed(seconds.values()))[-1]:.2f} s", file=sys.stderr
                )
    for side, values in seconds.items():
        median = round(statistics.median(values), 3)
        yield {"model": name, "side": side, "median_s": median, "seconds": [round(value, 3) for value in values]}


def starts(model: str, prompt: str, hub: HubServer) -> tuple[float, float]:
    """Seconds of a start with nothing there, and of the next without a network."""
    with tempfile.TemporaryDirectory() as home:
        environment = {**hub.environment(Path(home) / "hub"), "OVROUND_CACHE": str(Path(home) / "cache")}
        command = [sys.executable, *_OURS, model, prompt, "--max-new-tokens", "1", "--quiet"]
        first = first_byte_s(command, environment)
        return first, first_byte_s(command, environment | {"HF_ENDPOINT": NO_HUB})


def first_byte_s(command: list[str], more: Mapping[str, str]) -> float:
    """Seconds from the start of a process to the first byte on its stdout; it must end well."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("HF_", "OMP_"))}
    start = time.perf_counter()
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment | more) as process:
        assert process.stdout is not None
        byte = process.stdout.read(1)
        seconds = time.perf_counter() - start
        _, said = process.communicate()
    assert byte, f"{command} wrote nothing: {said.decode()}"
    assert process.returncode == 0, f"{command}: {said.decode()}"
    return seconds


def rendered(folder: Path, prompt: str) -> str:
    """The prompt by the model's chat template, where it has one; `ovround run` takes such a text as it stands."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder)
    if tokenizer.chat_template is None:
        return prompt
    message = [{"role": "user", "content": prompt}]
    text: str = tokenizer.apply_chat_template(message, tokenize=False, add_generation_prompt=True)
    return text


def rows_of(rows: list[dict[str, object]], name: str) -> dict[str, float]:
    """Medians of a model by side."""
    return {str(row["side"]): float(str(row["median_s"])) for row in rows if row["model"] == name}


def machine(threads: int) -> dict[str, object]:
    from ovround.runtime.devices import machine as host

    packages = {name: version(name) for name in ("openvino", "transformers", "torch")}
    found = host()
    return {"cpu": found.cpu, "threads": threads, "python": platform.python_version(), **packages}


if __name__ == "__main__":
    main()
