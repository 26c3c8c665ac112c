"""A file that one process holds at a time. The system lets go of it when the process dies, however it dies."""

from __future__ import annotations

import contextlib
import os
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

_LOCKED_BYTE = 1 << 30  # far after the text: on Windows nobody can read a locked byte
_POLL_S = 0.1


class LockHeld(Exception):  # noqa: N818  no error: another process is at work
    """Another process holds the lock; `holder` is its id as text, empty where it cannot be read."""

    def __init__(self, holder: str) -> None:
        super().__init__(holder)
        self.holder = holder


if sys.platform == "win32":
    import msvcrt

    def _try_lock(handle: int) -> None:
        os.lseek(handle, _LOCKED_BYTE, os.SEEK_SET)
        msvcrt.locking(handle, msvcrt.LK_NBLCK, 1)
else:
    import fcntl

    def _try_lock(handle: int) -> None:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)


def lock_file(path: Path) -> int:
    """Lock `path`, which is made, for this process; a handle for `unlock_file`. Raises LockHeld, or OSError."""
    while True:
        handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            _try_lock(handle)
            if os.name == "nt" or _is_open_at(handle, path):
                os.lseek(handle, 0, os.SEEK_SET)
                os.write(handle, f"{os.getpid():<20}\n".encode())
                return handle
        except (BlockingIOError, PermissionError):
            os.lseek(handle, 0, os.SEEK_SET)
            holder = os.read(handle, 20).decode(errors="replace").strip()
            os.close(handle)
            raise LockHeld(holder) from None
        except BaseException:
            os.close(handle)
            raise
        os.close(handle)  # its owner removed the file between our opening and locking it


def unlock_file(handle: int, path: Path) -> None:
    """Remove the file while it is locked, so that nobody can lock one that is about to go; Windows allows that only after."""
    if os.name == "nt":
        os.close(handle)
        with contextlib.suppress(OSError):  # another process has opened it by now
            path.unlink(missing_ok=True)
        return
    try:
        path.unlink(missing_ok=True)
    except BaseException:  # a signal, perhaps before anything was done
        path.unlink(missing_ok=True)
        raise
    finally:
        os.close(handle)


@contextlib.contextmanager
def waiting_lock(path: Path, on_wait: Callable[[str], None]) -> Iterator[None]:
    """Hold `path` within the block, after waiting for whoever holds it; `on_wait` is told the holder's id, once."""
    told = False
    while True:
        try:
            handle = lock_file(path)
        except LockHeld as held:
            if not told:
                on_wait(held.holder)
            told = True
            time.sleep(_POLL_S)
        else:
            break
    try:
        yield
    finally:
        unlock_file(handle, path)


def _is_open_at(handle: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(handle), path.stat())
    except FileNotFoundError:
        return False
