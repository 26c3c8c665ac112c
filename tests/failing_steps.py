"""A failure at every single step of a conversion: the k-th file that is made or opened, for k = 1, 2, 3 ..."""

from __future__ import annotations

import errno
import hashlib
import itertools
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from ovround.errors import OutputError


def contents(folder: Path) -> dict[str, str]:
    """sha256 of every file below `folder`, and an entry for each folder that is empty."""
    found = {}
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if path.is_file():
            found[name] = hashlib.sha256(path.read_bytes()).hexdigest()
        elif not any(path.iterdir()):
            found[f"{name}/"] = ""
    return found


class FailAt:
    """An audit hook that raises, once, at the k-th time that Python makes, opens for writing, syncs or renames something.

    A signal may also come while the scratch folder is being removed; a disk that fails then is nothing to recover from.
    """

    def __init__(self) -> None:
        self._below, self._error, self.left = "", BaseException(), 0
        sys.addaudithook(self._hear)

    def arm(self, below: Path, k: int, error: BaseException) -> None:
        self._below, self._error, self.left = str(below), error, k

    def _hear(self, event: str, arguments: tuple[Any, ...]) -> None:
        if not self.left or event not in ("os.mkdir", "os.rename", "shutil.copyfile", "open"):
            return
        path = str(arguments[1] if event in ("os.rename", "shutil.copyfile") else arguments[0])
        reading = event == "open" and arguments[1] == "r"
        cleaning = event == "open" and path.endswith(".partial") and isinstance(self._error, OSError)
        if path.startswith(self._below) and not reading and not cleaning:
            self.left -= 1
            if self.left == 0:
                raise self._error


def interrupted(
    failing: FailAt, place: Path, error: Callable[[], BaseException], work: Callable[[], object], every: int = 1
) -> Iterator[int]:
    """Run `work` with `error` at step 1, 2, 3 ... until a run ends without having met it; yields after each that met it."""
    for k in itertools.count(1, every):
        planned = error()
        failing.arm(place, k, planned)
        caught: BaseException | None = planned
        try:
            work()
            caught = None  # some failures do not matter: a folder that cannot be made because it is there
        except (OutputError, KeyboardInterrupt) as met:
            caught = met
        unmet, failing.left = failing.left, 0
        if unmet:
            assert k > 20, "there are more steps than that"
            return
        assert caught is None or caught is planned or caught.__cause__ is planned
        yield k


def full() -> OSError:
    return OSError(errno.ENOSPC, "No space left on device")
