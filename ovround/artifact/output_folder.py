"""Writes an output folder atomically, by one process at a time, and never over files that ovround did not write."""

from __future__ import annotations

import contextlib
import errno
import os
import re
import secrets
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

from ovround.artifact.file_lock import LockHeld, lock_file, unlock_file
from ovround.artifact.manifest import FORMATS, MANIFEST, read_manifest
from ovround.errors import ArtifactError, OutputError


def foreign_entry(folder: Path) -> str | None:
    """The first entry of `folder` that `ovround convert` did not write; None when it wrote all of them.

    It wrote the files that a manifest lists, and the manifest itself, in `folder` or in a folder for each format.
    """
    if (folder / MANIFEST).is_file():
        return _unlisted_file(folder)
    for entry in sorted(folder.iterdir()):
        unlisted = _unlisted_file(entry) if entry.name in FORMATS and (entry / MANIFEST).is_file() else ""
        if unlisted is not None:
            return f"{entry.name}/{unlisted}".rstrip("/")
    return None


def _unlisted_file(folder: Path) -> str | None:
    try:
        listed = {*read_manifest(folder).files, MANIFEST}
    except ArtifactError:
        return MANIFEST
    names = (path.relative_to(folder).as_posix() for path in sorted(folder.rglob("*")) if not path.is_dir())
    return next((name for name in names if name not in listed), None)


def check_output(out: Path) -> None:
    """Raise OutputError when `out` may not be written: it holds something that is not ours, or no folder can be made there."""
    try:
        if out.is_symlink() or (out.exists() and not out.is_dir()):
            raise OutputError(f"`{out}` exists and is no folder", hint="choose another output folder")
        foreign = foreign_entry(out) if out.is_dir() else None
        parent = next(parent for parent in out.absolute().parents if parent.exists())
    except OSError as error:
        raise output_error(error, out) from error
    if foreign is not None:
        raise OutputError(
            f"`{out}` holds `{foreign}`, which ovround did not write", hint="choose another output folder, or remove it"
        )
    if not parent.is_dir() or not os.access(parent, os.W_OK):
        raise OutputError(f"`{parent}` cannot be written to", hint="choose another output folder")


def check_space(out: Path, needed_bytes: int) -> None:
    """Raise OutputError when the disk that will hold `out` has fewer than `needed_bytes` free."""
    parent, free = _disk_of(out)
    if free < needed_bytes:
        raise OutputError(
            f"`{parent}` has {free / 1e6:.0f} MB free; about {needed_bytes / 1e6:.0f} MB are needed",
            hint="free some space, or choose an output folder on another disk",
        )


def write_atomically(path: Path, content: bytes) -> None:
    """Write `path` whole or not at all: beside it, flushed to the disk, renamed. Raises OSError."""
    scratch = path.with_name(f"{path.name}.partial")
    try:
        with scratch.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        scratch.replace(path)
        _sync_path(path.parent)
    finally:
        scratch.unlink(missing_ok=True)


def make_folder(folder: Path) -> None:
    """Make `folder` and its missing parents, and flush their names: a power cut could otherwise lose what is written later."""
    missing = [path for path in (folder, *folder.parents) if not path.exists()]
    if missing:
        folder.mkdir(parents=True, exist_ok=True)
    for path in missing:
        _sync_path(path.parent)


@contextlib.contextmanager
def output_lock(out: Path) -> Iterator[None]:
    """Hold `out` against every other process that takes this lock, and remove what a killed one left beside it.

    Raises OutputError naming the process that holds it. The system lets go of the lock when a process dies.
    """
    out = out.absolute()
    missing = [parent for parent in out.parents if not parent.exists()]
    path = out.parent / f".{out.name}.ovround-lock"
    handle: int | None = None
    try:
        try:
            make_folder(out.parent)
            handle = lock_file(path)
            _clear_killed(out)
        except LockHeld as held:
            raise OutputError(
                f"`{out}` is being written by another process{f' ({held.holder})' if held.holder else ''}",
                hint="wait for it, or choose another output folder",
            ) from None
        except OSError as error:
            raise output_error(error, out) from error
        yield
    finally:
        if handle is not None:
            unlock_file(handle, path)
        _remove_empty(missing)


def _clear_killed(out: Path) -> None:
    """Remove scratch folders of processes that were killed, having put an `out` back that was on its way to be replaced."""
    scratch = re.compile(re.escape(f".{out.name}.") + r"[0-9a-f]{8}\.partial")
    for folder in [path for path in out.parent.iterdir() if scratch.fullmatch(path.name)]:
        if (folder / "replaced").exists() and not out.exists():
            (folder / "replaced").rename(out)
        remove_folder(folder)


def nothing_kept() -> str:
    """The words of a message where no part of the work is left."""
    return "nothing was kept"


@contextlib.contextmanager
def atomic_folder(out: Path, kept: Callable[[], str] = nothing_kept, needed_bytes: int = 0) -> Iterator[Path]:
    """A working folder beside `out` that becomes `out` when the block ends well and vanishes when it does not.

    A folder of ours at `out` is replaced in the same moment. Raises OutputError for a full or read-only disk; the message
    of a full one says what `kept` says is left, and `needed_bytes` where that is known.
    """
    check_output(out)
    out = out.absolute()
    missing = [parent for parent in out.parents if not parent.exists()]
    scratch = out.parent / f".{out.name}.{secrets.token_hex(4)}.partial"  # named before it is made: nothing can be lost
    work = scratch / out.name
    try:
        make_folder(out.parent)
        work.mkdir(parents=True)
        yield work
        _sync(work)
        _replace(work, out, scratch / "replaced")
    except OSError as error:
        raise output_error(error, out, kept, needed_bytes) from error
    finally:
        remove_folder(scratch)
        _remove_empty(missing)


def _remove_empty(folders: list[Path]) -> None:
    """Remove `folders`, the innermost first, up to the first that holds something."""
    with contextlib.suppress(OSError):
        for folder in folders:
            folder.rmdir()


def remove_folder(folder: Path) -> None:
    """Remove a folder, also when a signal comes in the middle; a second signal is obeyed."""
    try:
        shutil.rmtree(folder, ignore_errors=True)
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise


def _replace(work: Path, out: Path, old: Path) -> None:
    if out.exists():
        check_output(out)
        try:
            out.rename(old)
            work.rename(out)
        except BaseException:
            if old.exists() and not out.exists():
                old.rename(out)
            raise
    else:
        work.rename(out)
    _sync_path(out.parent)


def _sync(folder: Path) -> None:
    """Flush files and folders, so that a power cut after the rename cannot leave an empty file under its final name."""
    for path in [folder, *folder.rglob("*")]:
        _sync_path(path)


def _sync_path(path: Path) -> None:
    if os.name == "nt" and path.is_dir():
        return  # Windows has no handle on a folder to flush
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def output_error(
    error: OSError, out: Path, kept: Callable[[], str] = nothing_kept, needed_bytes: int = 0
) -> OutputError:
    """The OutputError for a system error that came while `out` was written."""
    if error.errno == errno.EFBIG:
        return OutputError(
            f"`{out}` needs a file larger than may be written here; {kept()}",
            hint="raise the limit on the size of files (`ulimit -f`), or choose another disk",
        )
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        needed = f", about {needed_bytes / 1e6:.0f} MB are needed in all" if needed_bytes else ""
        return OutputError(
            f"the disk is full while writing `{out}`: {_disk_of(out)[1] / 1e6:.0f} MB are free{needed}; {kept()}",
            hint="free some space and run again",
        )
    return OutputError(f"`{out}` cannot be written: {error}")


def _disk_of(out: Path) -> tuple[Path, int]:
    """The folder that holds or will hold `out`, and how many bytes its disk has free."""
    parent = next(parent for parent in out.absolute().parents if parent.exists())
    return parent, shutil.disk_usage(parent).free
