"""Runs the command line many times without paying for its imports: a fresh interpreter that forks once a command.

What the interpreter imports before the first fork is chosen by the test, so a command's own imports can still be seen.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

_SERVER = """
import json, os, resource, sys, threading, traceback
from pathlib import Path

for name in sys.argv[1:]:
    __import__(name)
import ovround.cli.app

for line in sys.stdin:
    job = json.loads(line)
    child = os.fork()
    if child == 0:
        place = Path(job["folder"])
        for number, name in enumerate(("stdin", "stdout", "stderr")):
            os.dup2(os.open(place / name, os.O_RDWR | os.O_CREAT), number)
        sys.stdin = open(0, encoding="utf-8", closefd=False)
        os.chdir(job["cwd"])
        if job["file_size"]:
            resource.setrlimit(resource.RLIMIT_FSIZE, (job["file_size"], resource.RLIM_INFINITY))
        sys.argv = ["ovround", *job["arguments"]]
        if job["kill"]:
            number, delay_s = job["kill"]
            timer = threading.Timer(delay_s, os.kill, (os.getpid(), number))
            timer.daemon = True
            timer.start()
        status = 0
        try:
            ovround.cli.app.main()
        except SystemExit as end:
            status = end.code if isinstance(end.code, int) else int(end.code is not None)
        except BaseException:
            traceback.print_exc()
            status = 1
        sys.stdout.flush()
        sys.stderr.flush()
        resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
        (place / "modules").write_text(json.dumps(sorted({name.partition(".")[0] for name in sys.modules})))
        os._exit(status)
    print(json.dumps(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])), flush=True)
"""


@dataclass(frozen=True, slots=True)
class Result:
    """How one command ended; `modules` are the top-level names that its process had imported."""

    status: int
    stdout: str
    stderr: str
    modules: frozenset[str]


class CommandServer:
    """Call it with a command's arguments; `preload` names what is imported before."""

    def __init__(
        self, scratch: Path, preload: Sequence[str] = (), environment: Mapping[str, str] | None = None
    ) -> None:
        self._scratch, self._count = scratch, 0
        self._process = subprocess.Popen(
            [sys.executable, "-c", _SERVER, *preload],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=scratch,
            env={**os.environ, **(environment or {})},
        )

    def __call__(
        self,
        *arguments: object,
        stdin: str = "",
        cwd: Path | None = None,
        file_size: int = 0,
        kill: tuple[int, float] | None = None,
    ) -> Result:
        """Run one command.

        `file_size` is the most bytes that it may write to a file, 0 for no limit; `kill` a signal and after how many
        seconds it is sent.
        """
        self._count += 1
        place = self._scratch / str(self._count)
        place.mkdir()
        (place / "stdin").write_text(stdin, encoding="utf-8")
        job = {
            "folder": str(place),
            "cwd": str(cwd or place),
            "file_size": file_size,
            "kill": kill,
            "arguments": [str(one) for one in arguments],
        }
        pipe_in, pipe_out = self._process.stdin, self._process.stdout
        assert pipe_in is not None
        assert pipe_out is not None
        print(json.dumps(job), file=pipe_in, flush=True)
        status = json.loads(pipe_out.readline())
        texts = {name: (place / name).read_text(encoding="utf-8") for name in ("stdout", "stderr")}
        modules = place / "modules"
        names = json.loads(modules.read_text()) if modules.is_file() else []  # a command that was killed wrote none
        return Result(status, texts["stdout"], texts["stderr"], frozenset(names))

    def __enter__(self) -> CommandServer:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for pipe in (self._process.stdin, self._process.stdout):
            assert pipe is not None
            pipe.close()
        self._process.wait()


def succeeded(result: Result) -> str:
    """What a command that went well printed."""
    assert result.status == 0, result.stderr
    return result.stdout
