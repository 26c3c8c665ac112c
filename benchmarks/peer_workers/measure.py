"""measure.py THREADS COMMAND...: runs the command, then prints `{"elapsed_s", "peak_rss_bytes", ...}` as the last line.

The reason for this process: a child that Linux forks from a large parent starts with the parent's peak memory as its own
(ru_maxrss survives exec). A benchmark that holds a model would charge it to the peer; this process is small.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from pathlib import Path

SAMPLE_S = 0.02
PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")


def tree_rss_bytes(root: int) -> int:
    """Resident bytes summed over a process and its descendants (shared pages count once in each); 0 without /proc."""
    total, open_list = 0, [root]
    while open_list:
        process = Path("/proc", str(open_list.pop()))
        try:
            total += int((process / "statm").read_text().split()[1]) * PAGE_BYTES
            for task in (process / "task").iterdir():
                open_list += [int(child) for child in (task / "children").read_text().split()]
        except (FileNotFoundError, ProcessLookupError):  # the process has ended meanwhile
            continue
    return total


def main() -> int:
    """Run the command on THREADS CPUs, print its figures, and return its exit status."""
    threads, command = int(sys.argv[1]), sys.argv[2:]
    if hasattr(os, "sched_setaffinity"):  # also bounds pools that read no environment variable (TBB in OpenVINO)
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:threads])
    started = time.perf_counter()
    process = subprocess.Popen(command)
    peak, ended = 0, threading.Event()

    def sample() -> None:
        nonlocal peak
        while not ended.wait(SAMPLE_S):
            peak = max(peak, tree_rss_bytes(process.pid))

    sampler = threading.Thread(target=sample, daemon=True)
    sampler.start()
    _, status, usage = os.wait4(process.pid, 0)
    elapsed_s = time.perf_counter() - started
    ended.set()
    sampler.join()
    unit = 1 if sys.platform == "darwin" else 1024  # ru_maxrss: bytes on macOS, KiB on Linux
    answer = {
        "elapsed_s": round(elapsed_s, 3),
        "peak_rss_bytes": usage.ru_maxrss * unit,
        "peak_tree_rss_bytes": peak,
        "cpu_s": round(usage.ru_utime + usage.ru_stime, 3),
    }
    print(json.dumps(answer), flush=True)
    return os.waitstatus_to_exitcode(status)


if __name__ == "__main__":
    sys.exit(main())
