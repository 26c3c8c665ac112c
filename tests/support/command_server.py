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
import json, os, resource, signal, sys, threading, traceback
from pathlib import Path

for name in sys.argv[1:]:
    __import__(name)
import ovround.cli.app
import ovround.cli.working

ovround.cli.working._MOMENT_S = 3600.0  # the machine may be busy: what a command says shall not depend on that
calls = 0

def count_calls(number, call, function):
    def profile(frame, event, argument):
        global calls
        if event == "call" and function in ("", frame.f_code.co_name):
            calls += 1
            if calls == call:
                os.kill(os.getpid(), number)
    sys.setprofile(profile)

for line in sys.stdin:
    job = json.loads(line)
    child = os.fork()
    if child == 0:
        folder = Path(job["folder"])
        for number, name in enumerate(("stdin", "stdout", "stderr")):
            os.dup2(os.open(folder / name, os.O_RDWR | os.O_CREAT), number)
        sys.stdin = open(0, encoding="utf-8", closefd=False)
        os.chdir(job["cwd"])
        os.environ.update(job["environment"])
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
            if job["moment"]:
                count_calls(*job["moment"])
            ovround.cli.app.main()
        except SystemExit as end:
            status = end.code if isinstance(end.code, int) else int(end.code is not None)
        except BaseException:
            traceback.print_exc()
            status = 1
        sys.setprofile(None)
        signal.setitimer(signal.ITIMER_REAL, 0)  # a command that has ended is not stopped any more
        sys.stdout.flush()
        sys.stderr.flush()
        resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
        modules = sorted({name.partition(".")[0] for name in sys.modules})
        (folder / "ended.partial").write_text(json.dumps({"modules": modules, "calls": calls}))
        (folder / "ended.partial").rename(folder / "ended")  # a command that is killed here leaves all of it or nothing
        os._exit(status)
    print(json.dumps(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])), flush=True)
"""


@dataclass(frozen=True, slots=True)
class Moment:
    """A signal that a command sends itself as it calls a Python function for the `call`-th time.

    Calls are counted in the main thread, those of `function` alone where it is given. A moment is thus the same on every
    machine, however busy. Signal 0 counts, and nothing happens.
    """

    signal: int
    call: int
    function: str = ""


@dataclass(frozen=True, slots=True)
class Result:
    """How one command ended.

    `modules` are the top-level names that its process had imported, `calls` how many calls a `Moment` made it count. A
    command that was killed has neither.
    """

    status: int
    stdout: str
    stderr: str
    modules: frozenset[str]
    calls: int


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
        moment: Moment | None = None,
        environment: Mapping[str, str] | None = None,
    ) -> Result:
        """Run one command, with further variables of its environment.

        `file_size` is the most bytes that it may write to a file, 0 for no limit. `kill` is a signal and after how many
        seconds it is sent: SIGKILL, since any other may come when the command has just ended. For those there is `moment`.
        """
        self._count += 1
        folder = self._scratch / str(self._count)
        folder.mkdir()
        (folder / "stdin").write_text(stdin, encoding="utf-8")
        job = {
            "folder": str(folder),
            "cwd": str(cwd or folder),
            "file_size": file_size,
            "kill": kill,
            "moment": moment and (moment.signal, moment.call, moment.function),
            "environment": dict(environment or {}),
            "arguments": [str(argument) for argument in arguments],
        }
        pipe_in, pipe_out = self._process.stdin, self._process.stdout
        assert pipe_in is not None
        assert pipe_out is not None
        print(json.dumps(job), file=pipe_in, flush=True)
        status = json.loads(pipe_out.readline())
        texts = {name: (folder / name).read_text(encoding="utf-8") for name in ("stdout", "stderr")}
        path = folder / "ended"
        ended = json.loads(path.read_text()) if path.is_file() else {"modules": [], "calls": 0}
        return Result(status, texts["stdout"], texts["stderr"], frozenset(ended["modules"]), ended["calls"])

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
