"""Makes a conversion fail at each of its steps: the k-th file that it creates or opens, for k = 1, 2, 3 ..."""

from __future__ import annotations

import errno
import hashlib
import itertools
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from ovround.errors import OutputError


def contents(folder: Path) -> dict[str, str]:
    """sha256 of every file below `folder`, and an entry for each empty folder."""
    digests = {}
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if path.is_file():
            digests[name] = hashlib.sha256(path.read_bytes()).hexdigest()
        elif not any(path.iterdir()):
            digests[f"{name}/"] = ""
    return digests


class FailAt:
    """Raises `error` (or calls it) once, at the k-th time that Python creates, opens for writing, syncs or renames a file.

    A signal may also come while the scratch folder is removed. A disk that fails at that time is not tested.
    """

    def __init__(self) -> None:
        self._error: BaseException | Callable[[], None] = BaseException()
        self._below, self.left = "", 0
        sys.addaudithook(self._hear)
        real = os.fsync

        def fsync(handle: int) -> None:
            if self.left and Path(f"/proc/self/fd/{handle}").exists():
                self._count(str(Path(f"/proc/self/fd/{handle}").readlink()))
            real(handle)

        os.fsync = fsync

    def arm(self, below: Path, k: int, error: BaseException | Callable[[], None]) -> None:
        self._below, self._error, self.left = str(below), error, k

    def _hear(self, event: str, arguments: tuple[Any, ...]) -> None:
        if not self.left or event not in ("os.mkdir", "os.rename", "shutil.copyfile", "open"):
            return
        path = str(arguments[1] if event in ("os.rename", "shutil.copyfile") else arguments[0])
        reading = event == "open" and arguments[1] == "r"
        cleaning = event == "open" and path.endswith(".partial") and isinstance(self._error, OSError)
        if not reading and not cleaning:
            self._count(path)

    def _count(self, path: str) -> None:
        if not path.startswith(self._below):
            return
        self.left -= 1
        if self.left == 0:
            if isinstance(self._error, BaseException):
                raise self._error
            self._error()


def interrupted(
    failing: FailAt, folder: Path, error: Callable[[], BaseException], work: Callable[[], object], every: int = 1
) -> Iterator[int]:
    """Run `work` with `error` at step 1, 2, 3 ... and yield after each run; ends after a run with fewer steps than that."""
    for k in itertools.count(1, every):
        planned = error()
        failing.arm(folder, k, planned)
        caught: BaseException | None = planned
        try:
            work()
            caught = None  # some failures do not matter, such as creating a folder that exists
        except (OutputError, KeyboardInterrupt) as met:
            caught = met
        unmet, failing.left = failing.left, 0
        if unmet:
            assert k > 20, "a conversion has more than 20 steps"
            return
        assert caught is None or caught is planned or caught.__cause__ is planned
        yield k


def full() -> OSError:
    return OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def broken() -> OSError:
    return OSError(errno.EIO, os.strerror(errno.EIO))


def forbidden() -> OSError:
    return OSError(errno.EACCES, os.strerror(errno.EACCES))
