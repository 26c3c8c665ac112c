"""Pointer files of Git LFS: what a clone has in place of a large file until `git lfs pull` fetches it."""

from __future__ import annotations

from pathlib import Path

_FIRST_LINE = b"version https://git-lfs.github.com/spec/"


def is_pointer(path: Path) -> bool:
    """Whether `path` is a pointer file; false where it cannot be read."""
    try:
        with path.open("rb") as file:
            return file.read(len(_FIRST_LINE)) == _FIRST_LINE
    except OSError:
        return False


def again(path: Path, hint: str = "download it again") -> str:
    """The hint for a file that cannot be read: `hint`, or how a clone gets what its pointer files stand for."""
    if not is_pointer(path):
        return hint
    return f"it is a pointer of Git LFS, not the file itself: run `git lfs install && git lfs pull` in {path.parent}"
