"""An audit hook for the process of a command. It writes a line for each event that no model folder may cause.

OVROUND_TEST_AUDIT names the file for these lines. The command may open files only below the folders in OVROUND_TEST_FOLDERS.
The hook does not see native code; code that native code executes would write the canary file of `payloads`.
"""

from __future__ import annotations

import os
import site
import sys
from pathlib import Path
from typing import Any

_NOTES = os.environ["OVROUND_TEST_AUDIT"]
_CODE = [
    os.path.realpath(folder)
    for folder in (sys.prefix, sys.base_prefix, *site.getsitepackages(), Path(os.__file__).parent, Path(__file__).parents[2])
]  # fmt: skip
_FOLDERS = [*_CODE, *map(os.path.realpath, os.environ["OVROUND_TEST_FOLDERS"].split(os.pathsep))]
_SYSTEM = ("/proc/", "/sys/", "/dev/null", "/usr/share/zoneinfo/", "/etc/localtime", "/etc/os-release")
_PROCESSES = (
    "os.exec",
    "os.posix_spawn",
    "os.system",
    "os.startfile",
    "os.spawn",
    "pty.spawn",
    "os.fork",
    "os.forkpty",
)
_CONNECTIONS = ("socket.connect", "socket.bind", "socket.sendto", "socket.getaddrinfo", "socket.gethostbyname")
parent = os.getpid()  # it only forks one process for each command and is not watched; 0: it is watched too
_busy = False


def inside(path: Any, folders: list[str]) -> bool:
    real = os.path.realpath(os.fsdecode(path))
    return any(real == folder or real.startswith(folder + os.sep) for folder in folders)


def complaint(event: str, arguments: tuple[Any, ...]) -> str | None:
    if event in (*_PROCESSES, *_CONNECTIONS, "pickle.find_class", "webbrowser.open", "urllib.Request"):
        return repr(arguments)
    if event == "subprocess.Popen":
        words = [str(word) for word in arguments[1]]
        renders = words[:2] == [sys.executable, "-I"] and words[-2].endswith("/template_process.py")
        computes = words[1] == "-c" and "ovround.runtime.server.engine_core" in words[2]  # which is watched in its turn
        return None if renders or computes else repr(words)
    if event == "open" and isinstance(arguments[0], str | bytes):
        system = os.fsdecode(arguments[0]).startswith(_SYSTEM)
        return None if system or inside(arguments[0], _FOLDERS) else os.fsdecode(arguments[0])
    if event == "exec":
        name = str(getattr(arguments[0], "co_filename", ""))
        return None if name.startswith("<") or inside(name, _CODE) else name
    if event in ("import", "ctypes.dlopen"):
        name = arguments[1] if event == "import" else arguments[0]
        return None if not name or os.sep not in str(name) or inside(name, _CODE) else str(name)
    return None


def hear(event: str, arguments: tuple[Any, ...]) -> None:
    global _busy
    if _busy or os.getpid() == parent:
        return
    _busy = True
    try:
        note = complaint(event, arguments)
        if note is not None:
            with open(_NOTES, "a", encoding="utf-8") as notes:  # noqa: PTH123  # pathlib would cause events itself
                notes.write(f"{event} {note}\n")
    finally:
        _busy = False


sys.addaudithook(hear)
