"""A download into the hub's own cache that continues where a killed one stopped; each file is compared with its hash.

huggingface_hub places and names the files, and gives tokens, end point and retries. Two things it does not do. What a
process had downloaded of a file is lost when it ends. And only sizes are compared, not hashes. So the bytes of each file are
gathered here, in `blobs/HASH.incomplete`, under huggingface_hub's own lock. They get their name when the hash is right.
"""

from __future__ import annotations

import glob
import hashlib
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, cast

from ovround.checkpoint.hub.listing import HubFile, Repository
from ovround.checkpoint.hub.name import HubName
from ovround.checkpoint.hub.refusal import interrupted, library_errors, unreachable
from ovround.errors import CheckpointError, OutputError
from ovround.progress import OnProgress, Progress

_SHA256_CHARACTERS = 64
_READ_BYTES = 1 << 20
_NO_FILE = "//"  # a pattern that fits no path


def download(repository: Repository, paths: list[str], on_progress: OnProgress, *, recheck: bool = False) -> Path:
    """The folder `.../snapshots/COMMIT` with these files of a repository.

    `recheck` compares files that are there with their hashes too; one that differs is downloaded again. Raises
    CheckpointError where the hub does not give a file, or gives another one than it states, and OutputError where the disk
    has no room, before anything is downloaded.
    """
    files = repository.select(paths)
    blobs = _blobs(repository.name)
    if recheck:
        for file in files:
            if (blobs / file.digest).is_file() and _digest(blobs / file.digest, file) != file.digest:
                (blobs / file.digest).unlink()
    missing = [file for file in files if not (blobs / file.digest).exists()]
    _check_space(repository, missing, blobs)
    report = _Report(sum(file.size_bytes for file in missing), on_progress)
    try:
        for file in missing:
            _fetch(repository, file, blobs, report)
        folder = _snapshot(repository.name, paths)
    except library_errors() as error:
        raise interrupted(repository.name, error) from error
    if folder.name != repository.commit:
        raise CheckpointError(f"`{repository.name}` changed while it was downloaded", hint="run it again")
    return folder


def earlier_download(name: HubName) -> Path:
    """The folder that an earlier download left, where the hub cannot be reached; raises CheckpointError where there is none.

    huggingface_hub looks for it. It is asked for no file, since only some are downloaded of most repositories.
    """
    from huggingface_hub import snapshot_download

    try:
        return Path(
            snapshot_download(name.repository, revision=name.revision, allow_patterns=[_NO_FILE], local_files_only=True)
        )
    except library_errors() as error:
        raise unreachable(name) from error


class _Report:
    """Bytes that have come; as much of a progress bar as huggingface_hub's downloads ask for."""

    def __init__(self, total_bytes: int, on_progress: OnProgress) -> None:
        self._total, self._on_progress = total_bytes, on_progress
        self._done, self._file = 0, ""

    def begin(self, file: str, come_bytes: int) -> None:
        """A file begins, of which an earlier download left some bytes."""
        self._file = file
        self.update(come_bytes)

    def update(self, count: int) -> None:
        self._done += count
        self._on_progress(Progress("download", step=self._done, steps=self._total, note=self._file))

    def __enter__(self) -> _Report:
        return self

    def __exit__(self, *error: object) -> None:
        """Nothing is drawn here."""


def _fetch(repository: Repository, file: HubFile, blobs: Path, report: _Report) -> None:
    """Download one file into its place, or the rest of it."""
    from huggingface_hub import hf_hub_url
    from huggingface_hub.file_download import http_get
    from huggingface_hub.utils import build_hf_headers  # type: ignore[attr-defined]  # it is public all the same

    part = blobs / f"{file.digest}.incomplete"
    with _locked(blobs, file.digest):
        if (blobs / file.digest).exists():  # another process was faster
            report.begin(file.path, file.size_bytes)
            return
        with _part(part, file.size_bytes) as stream:
            report.begin(file.path, stream.tell())
            http_get(
                hf_hub_url(repository.name.repository, file.path, revision=repository.commit), stream,
                resume_size=stream.tell(), headers=build_hf_headers(), expected_size=file.size_bytes,
                displayed_filename=file.path, tqdm_class=cast("Any", lambda **settings: report),
            )  # fmt: skip
        found = _digest(part, file)
        if found != file.digest:
            part.unlink()
            raise CheckpointError(
                f"`{file.path}` of `{repository.name}` is damaged: its hash is {found[:12]}..., the hub states {file.digest[:12]}...",
                hint="run it again; where that does not help, something between here and the hub changes files",
            )
        part.replace(blobs / file.digest)


@contextmanager
def _part(path: Path, size_bytes: int) -> Iterator[BinaryIO]:
    """The file of what has come, opened at its end; one that is too long is begun again."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
    with os.fdopen(descriptor, "r+b") as stream:
        if stream.seek(0, os.SEEK_END) > size_bytes:
            stream.seek(0)
            stream.truncate()
        yield stream


def _locked(blobs: Path, digest: str) -> Any:
    """huggingface_hub's lock of a file: another process may be downloading it, with ovround or without."""
    from huggingface_hub.utils import WeakFileLock  # type: ignore[attr-defined]  # it is public all the same

    lock = blobs.parents[1] / ".locks" / blobs.parent.name / f"{digest}.lock"
    lock.parent.mkdir(parents=True, exist_ok=True)
    blobs.mkdir(parents=True, exist_ok=True)
    return WeakFileLock(lock)


def _digest(path: Path, file: HubFile) -> str:
    """The hash of a file's contents, of the kind that the hub states for `file`."""
    if len(file.digest) == _SHA256_CHARACTERS:
        digest = hashlib.sha256()
    else:  # git's hash of a blob
        digest = hashlib.sha1(f"blob {path.stat().st_size}\0".encode(), usedforsecurity=False)
    with path.open("rb") as stream:
        while piece := stream.read(_READ_BYTES):
            digest.update(piece)
    return digest.hexdigest()


def _blobs(name: HubName) -> Path:
    from huggingface_hub.constants import HF_HUB_CACHE
    from huggingface_hub.file_download import repo_folder_name

    folder = repo_folder_name(repo_id=name.repository, repo_type="model")
    return Path(HF_HUB_CACHE).expanduser().resolve() / folder / "blobs"


def _snapshot(name: HubName, paths: list[str]) -> Path:
    """Let huggingface_hub place what is in its cache: the links of the commit, and what its branch points to."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.utils.tqdm import are_progress_bars_disabled, disable_progress_bars, enable_progress_bars

    shown = not are_progress_bars_disabled()
    disable_progress_bars()
    try:
        wanted = [glob.escape(path) for path in paths]
        return Path(snapshot_download(name.repository, revision=name.revision, allow_patterns=wanted))
    finally:
        if shown:
            enable_progress_bars()


def _check_space(repository: Repository, missing: list[HubFile], blobs: Path) -> None:
    def come(file: HubFile) -> int:
        part = blobs / f"{file.digest}.incomplete"
        return part.stat().st_size if part.exists() else 0

    needed = sum(max(file.size_bytes - come(file), 0) for file in missing)
    folder = next(path for path in blobs.parents if path.exists())
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise OutputError(
            f"`{repository.name}` is a download of {needed / 1e6:.0f} MB; `{folder}` has {free / 1e6:.0f} MB free",
            hint="free some space, or set HF_HUB_CACHE to a folder on another disk",
        )
