"""Peers to measure against, each in its own virtual environment, because their pinned dependencies exclude one another.

An environment is built when it is first needed. Its name contains a hash of its requirements, so a changed requirement is
another environment and an old figure can be measured again. A peer never runs in our process: a worker script gets one JSON
argument and prints one JSON line last. `peer_workers/measure.py` starts the worker and measures it with wait4, so this needs
Linux or macOS.

    python benchmarks/peers.py build auto-round
    python benchmarks/peers.py run optimum-intel optimum_export '{"model": "in", "out": "out", "group_size": 64}'
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections import deque
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

Json: TypeAlias = "str | int | float | bool | list[Json] | dict[str, Json] | None"

WORKERS = Path(__file__).resolve().parent / "peer_workers"


class WorkerError(RuntimeError):
    """An environment could not be built, or a worker failed; the message names the command."""


@dataclass(frozen=True, slots=True)
class Peer:
    """A program that we compare ourselves with, and the exact packages that it is measured at."""

    name: str
    requirements: tuple[str, ...]
    without: tuple[str, ...] = ()  # packages that the requirements install and that are removed again

    def __post_init__(self) -> None:
        if not self.requirements:
            raise ValueError(f"peer {self.name!r} has no requirements")

    @property
    def key(self) -> str:
        """Folder name: peer, then 12 hexadecimal digits over the requirements and the Python version."""
        python_version = f"python{sys.version_info.major}.{sys.version_info.minor}"
        text = "\n".join((python_version, *sorted(self.requirements), *(f"!{name}" for name in sorted(self.without))))
        return f"{self.name}-{hashlib.sha256(text.encode()).hexdigest()[:12]}"


PEERS: dict[str, Peer] = {
    peer.name: peer
    for peer in (
        # transformers 5.5.4 is the newest that optimum-intel 2.2.0 accepts; auto-round gets the same one so that both
        # read a checkpoint alike.
        Peer("auto-round", ("auto-round==0.16.1", "transformers==5.5.4", "torch==2.13.0", "numpy==2.4.6")),
        Peer(
            "optimum-intel",
            (
                "optimum-intel==2.2.0",
                "nncf==3.4.0",
                "openvino==2026.4.1",
                "openvino-tokenizers==2026.4.1.0",
                "gguf==0.19.0",
                "accelerate==1.15.0",
                "transformers==5.5.4",
                "torch==2.13.0",
                "numpy==2.4.6",
            ),
            # Its wheel on PyPI expects the CUDA build of torch and breaks `import transformers` beside the CPU build;
            # a text model is exported without it.
            without=("torchvision",),
        ),
        Peer(
            "onnxruntime-genai",
            (
                "onnxruntime-genai==0.18.0",
                "onnxruntime==1.31.1",
                "onnx-ir==1.1.0",
                "transformers==5.5.4",
                "torch==2.13.0",
                "numpy==2.4.6",
            ),
        ),
        # Libraries that load the formats that we write. GPTQModel is a source package; transformers needs optimum with it.
        Peer("gptqmodel", ("gptqmodel==7.7.0", "optimum==2.3.0", "transformers==5.23.0", "torch==2.14.1")),
        Peer(
            "compressed-tensors",
            ("compressed-tensors==0.20.0", "accelerate==1.15.0", "transformers==5.23.0", "torch==2.13.0"),
        ),
        # A source package: pip compiles llama.cpp for this machine, which takes some minutes on two cores. Processors with
        # AMX need clang (CC=clang CXX=clang++): the build of GCC 12 ends in SIGILL at its first tile instruction.
        Peer("llama-cpp", ("llama-cpp-python==0.3.36", "gguf==0.19.0", "numpy==2.4.6")),
        # A prebuilt fork of llama.cpp, the only one on the index that needs no compiler.
        Peer("ik-llama-cpp", ("ik-llama-cpp-python==0.1.5", "numpy==2.4.6")),
    )
}


def cache_folder() -> Path:
    """The user's cache folder on Linux or macOS, with `ovround/peers` below it."""
    if sys.platform == "darwin":
        root = Path.home() / "Library" / "Caches"
    else:
        root = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache"))
    return root / "ovround" / "peers"


def python(peer: str, cache: Path | None = None) -> Path:
    """The interpreter of a peer's environment, which is built if it does not exist yet.

    `cache` holds the environments (default: `cache_folder()`). Raises WorkerError on an unknown name or a failed build.
    """
    if peer not in PEERS:
        raise WorkerError(f"unknown peer {peer!r}\nhint: choose from {', '.join(PEERS)}")
    home = (cache or cache_folder()).resolve() / PEERS[peer].key
    if not home.is_dir():
        _build(PEERS[peer], home)
    return _interpreter(home)


def run(peer: str, worker: str, *, cache: Path | None = None, threads: int = 1, **arguments: Json) -> dict[str, Any]:
    """Run a worker in a peer's environment; its answer with `elapsed_s` and `peak_rss_bytes` of the whole process.

    Runs `peer_workers/<worker>.py` with `arguments` as one JSON argument; its other output goes to stderr. `elapsed_s` is
    wall time from start to exit, imports included. `peak_rss_bytes` is the peak of the largest process, and
    `peak_tree_rss_bytes` is the sampled sum over all processes that run at the same time. `threads` bounds the usual thread
    pools and the CPUs of the process. Raises WorkerError when the worker fails or its last line is not JSON.
    """
    if threads < 1:
        raise WorkerError(f"threads is {threads}, at least 1 is needed")
    script = WORKERS / f"{worker}.py"
    if not script.is_file():
        known = ", ".join(sorted(path.stem for path in WORKERS.glob("*_*.py")))
        raise WorkerError(f"unknown worker {worker!r}\nhint: choose from {known}")
    return measured([str(python(peer, cache)), "-I", str(script), json.dumps(arguments)], threads)


def measured(command: list[str], threads: int) -> dict[str, Any]:
    """Run `command`; the JSON object of its last line with the figures of `run`. Our own commands are measured like a peer.

    Raises WorkerError when the command fails or its last line is not JSON.
    """
    weigher = [sys.executable, "-I", str(WORKERS / "measure.py"), str(threads), *command]
    last_lines = deque[str](maxlen=2)  # at the end: the command's answer, then the figures of measure.py
    with subprocess.Popen(weigher, stdout=subprocess.PIPE, text=True, env=_environment(threads)) as process:
        for line in process.stdout or ():
            if len(last_lines) == last_lines.maxlen:
                sys.stderr.write(last_lines[0])
            last_lines.append(line)
    if process.returncode != 0 or len(last_lines) != last_lines.maxlen:
        raise WorkerError(f"ended with {process.returncode}: {shlex.join(command)}")
    answer, weighed = last_lines
    try:
        return {**json.loads(answer), **json.loads(weighed)}
    except json.JSONDecodeError as error:
        raise WorkerError(f"ended with a line that is not JSON: {answer!r}: {shlex.join(command)}") from error


def _build(peer: Peer, home: Path) -> None:
    """Build in a temporary folder and rename it, so that no unfinished environment has the final name."""
    home.parent.mkdir(parents=True, exist_ok=True)
    beside = Path(tempfile.mkdtemp(prefix=f".{peer.name}-", dir=home.parent))
    interpreter = _interpreter(beside)
    try:
        _call([sys.executable, "-m", "venv", str(beside)])
        _call([str(interpreter), "-m", "pip", "install", "--quiet", *peer.requirements])
        if peer.without:
            _call([str(interpreter), "-m", "pip", "uninstall", "--quiet", "--yes", *peer.without])
        freeze = subprocess.run([str(interpreter), "-m", "pip", "freeze"], check=True, capture_output=True, text=True)
        (beside / "freeze.txt").write_text(freeze.stdout)
        # The scripts in bin/ keep the old folder in their first line: workers start modules with `python -m`.
        beside.rename(home)
    except OSError:
        if not home.is_dir():  # otherwise another process has built the same environment
            raise
    finally:
        shutil.rmtree(beside, ignore_errors=True)


def _call(command: list[str]) -> None:
    if subprocess.run(command, stdout=sys.stderr, check=False).returncode != 0:
        raise WorkerError(f"failed: {shlex.join(command)}")


def _interpreter(home: Path) -> Path:
    return home / "bin" / "python"


def _environment(threads: int) -> dict[str, str]:
    """Our environment without Python's own variables, offline, with bounded thread pools."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    pools = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "RAYON_NUM_THREADS")
    offline = ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", "HF_DATASETS_OFFLINE")
    # CI: OpenVINO and NNCF send usage reports unless CI is set. Without a network each report forks the process and waits
    # for its time limit, which spoils both figures.
    fixed = {"TOKENIZERS_PARALLELISM": "false", "CI": "true"}
    return kept | fixed | dict.fromkeys(pools, str(threads)) | dict.fromkeys(offline, "1")


def main() -> None:
    """The command line: list, build, run."""
    parser = argparse.ArgumentParser(description="Build and run the programs that ovround is measured against.")
    parser.add_argument("--cache", type=Path, help=f"folder of the environments (default: {cache_folder()})")
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("list", help="peers, their folders and requirements")
    build = commands.add_parser("build", help="build one environment, print its interpreter")
    build.add_argument("peer", choices=PEERS)
    runner = commands.add_parser("run", help="run a worker, print its JSON line")
    runner.add_argument("peer", choices=PEERS)
    runner.add_argument("worker")
    runner.add_argument("arguments", type=json.loads, help="one JSON object")
    runner.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    if options.command == "list":
        for peer in PEERS.values():
            print(peer.key, *peer.requirements)
    elif options.command == "build":
        print(python(options.peer, options.cache))
    else:
        answer = run(options.peer, options.worker, cache=options.cache, threads=options.threads, **options.arguments)
        print(json.dumps(answer))


if __name__ == "__main__":
    try:
        main()
    except WorkerError as error:
        sys.exit(f"error: {error}")
