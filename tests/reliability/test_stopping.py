"""A signal that arrives where Python drops exceptions still ends the command, with its message and exit status."""

from __future__ import annotations

import os
import signal
import subprocess
import sys

import pytest

pytestmark = pytest.mark.skipif(os.name == "nt", reason="Windows has no such signals")

DROPS = {
    "a callback of a weak reference": """
        class Owner: pass
        owner = Owner()
        reference = weakref.ref(owner, lambda _: stop())
        del owner
    """,
    "a finaliser": """
        class Owner:
            def __del__(self): stop()
        owner = Owner()
        del owner
    """,
    "a native module being loaded": """
        try:
            try: stop()
            except BaseException as error: raise ImportError("initialization failed") from error
        except ImportError: pass
    """,
    "code that drops everything": """
        try: stop()
        except BaseException: pass
    """,
    "nothing": "stop()",
    "a native module that is needed": """
        try: stop()
        except BaseException as error: raise ImportError("initialization failed") from error
    """,
    "a class being made, before Python 3.12": """
        try: stop()
        except BaseException as error: raise RuntimeError("Error calling __set_name__") from error
    """,
}
PROGRAM = """
import os, signal, sys, time, weakref
from ovround.cli import app
def stop():
    os.kill(os.getpid(), signal.{number})
    for _ in range(1000): pass
def job():
    exec(sys.argv[1], globals())  # noqa: S102
    time.sleep(20)
    print("not stopped")
app.app = job
app.main()
"""


def test_names_that_no_encoding_can_write_are_printed() -> None:
    code = "from ovround.cli import app; app.app = lambda: print('a\\ud800b'); app.main()"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert (done.stdout, done.stderr) == ("a\\ud800b\n", "")


@pytest.mark.parametrize("number", ["SIGINT", "SIGTERM"])
@pytest.mark.parametrize("situation", DROPS)
def test_a_signal_is_not_lost(situation: str, number: str) -> None:
    lines = DROPS[situation].strip("\n").splitlines()
    margin = len(lines[0]) - len(lines[0].lstrip())
    code = "\n".join(line[margin:] for line in lines)
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM.format(number=number), code],
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    message = {"SIGINT": "stopped", "SIGTERM": "terminated"}[number]
    assert (done.stderr, done.stdout) == (f"{message}; nothing was kept\n", "")
    assert done.returncode == 128 + signal.Signals[number]


@pytest.mark.parametrize(("command", "message"), [("serve", "stopped"), ("convert", "stopped; nothing was kept")])
def test_only_commands_that_write_say_what_is_left(command: str, message: str) -> None:
    code = "import os, signal; from ovround.cli import app; app.app = lambda: os.kill(os.getpid(), signal.SIGINT); app.main()"
    done = subprocess.run(
        [sys.executable, "-c", code, "--debug", command], capture_output=True, text=True, timeout=60, check=False
    )
    assert (done.returncode, done.stderr) == (130, f"{message}\n")
