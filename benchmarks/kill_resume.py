"""Checks that a conversion that is killed at any time continues to the same bytes.

The script converts once undisturbed. Then it starts the same command many times, kills each process (SIGKILL) at a random
time within the undisturbed run's time, runs the command again, and compares the folders file by file. Arguments after `--` go
to `ovround convert`.

    python benchmarks/kill_resume.py MODEL [--times 20] [--seed 0] [-- --recipe light --group-size 64]

It asserts that every folder is equal and that no other file is left beside it. The last line printed is one JSON document;
`lost_s` is the time of the killed and the continued run together, less the time of the undisturbed run.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import random
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path


def command(model: str, out: Path, options: list[str]) -> list[str]:
    return [sys.executable, "-m", "ovround", "convert", model, str(out), "--quiet", *options]


def contents(folder: Path) -> dict[str, str]:
    """sha256 of every file below `folder`."""
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def timed(words: list[str]) -> float:
    """Seconds of a run, which must succeed."""
    started = time.monotonic()
    subprocess.run(words, check=True, stdout=subprocess.DEVNULL)
    return time.monotonic() - started


def killed_after(words: list[str], delay_s: float) -> tuple[bool, float]:
    """Whether the run was killed before it ended, and its seconds."""
    started = time.monotonic()
    process = subprocess.Popen(words, stdout=subprocess.DEVNULL)
    try:
        ended = process.wait(delay_s) == 0
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
        ended = False
    return not ended, time.monotonic() - started


def main() -> None:
    words = sys.argv[1:]
    own, options = (words[: words.index("--")], words[words.index("--") + 1 :]) if "--" in words else (words, [])
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", help="folder, hub name or `demo`")
    parser.add_argument("--times", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args(own)
    draw = random.Random(arguments.seed)
    killed, blocks, lost = 0, [], []
    with tempfile.TemporaryDirectory() as scratch:
        first = Path(scratch) / "undisturbed" / "out"
        whole_s = timed(command(arguments.model, first, options))
        undisturbed = contents(first)
        for number in range(arguments.times):
            folder = Path(scratch) / "killed"
            folder.mkdir()
            words = command(arguments.model, folder / "out", options)
            delay_s = draw.uniform(0, whole_s)
            was_killed, before_s = killed_after(words, delay_s)
            kept_blocks = len(list((folder / ".out.ovround-work").glob("*.safetensors")))
            if was_killed:
                killed += 1
                blocks.append(kept_blocks)
                lost.append(before_s + timed(words) - whole_s)
            equal = contents(folder / "out") == undisturbed
            left = sorted(path.name for path in folder.iterdir())
            print(f"{number + 1}: killed after {delay_s:.1f} s, {kept_blocks} blocks kept, equal: {equal}", flush=True)
            assert equal, delay_s
            assert left == ["out"], left
            shutil.rmtree(folder)
    result = {
        "times": arguments.times,
        "killed": killed,
        "equal": arguments.times,
        "kept_blocks": blocks,
        "whole_s": round(whole_s, 2),
        "lost_s": round(statistics.median(lost), 2) if lost else None,
        "options": options,
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
