"""The folder of converted models: `NAME-KEY/`, what a conversion wrote, and `NAME-KEY.json`, what it was converted from.

The record is written when the folder is complete. A folder without one is what a killed process left, or is being written.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import os
import re
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import ovround
from ovround.artifact.file_lock import LockHeld, lock_file, unlock_file, waiting_lock
from ovround.artifact.manifest import FORMAT_VERSION, check_files, read_manifest
from ovround.artifact.output_folder import make_folder, output_error, remove_folder, write_atomically
from ovround.errors import ArtifactError, UsageError
from ovround.limits import LIMITS
from ovround.record import load_json, read_record

ENVIRONMENT = "OVROUND_CACHE"
_LEFT_OVER = re.compile(r"\.(.+)\.[0-9a-f]{8}\.partial")
_KEY_CHARACTERS = 12
_DAY_S = 86_400


def cache_folder() -> Path:
    """`$OVROUND_CACHE`, else `ovround` in `$XDG_CACHE_HOME` or in `~/.cache`; it need not exist."""
    stated = os.environ.get(ENVIRONMENT)
    if stated:
        return Path(stated).expanduser().absolute()
    base = os.environ.get("XDG_CACHE_HOME", "")
    return (Path(base) if Path(base).is_absolute() else Path.home() / ".cache") / "ovround"


@dataclass(frozen=True, slots=True)
class Request:
    """What a user asked for. `bits` are of a weight that is rounded; a quantised source keeps its own."""

    format: str
    bits: int


@dataclass(frozen=True, slots=True)
class Record:
    """`NAME-KEY.json`. `models` are all names that led to it, a folder or file by its absolute path.

    `identity` is that of its `Source`, `method` what that was quantised by where its integers were kept. `chosen`: nobody asked
    for these bits, they fitted the machine.
    """

    models: tuple[str, ...]
    identity: str
    format: str
    bits: int
    method: str
    size_bytes: int
    created_s: float
    version: str = ovround.__version__
    format_version: int = FORMAT_VERSION
    chosen: bool = False

    @property
    def request(self) -> Request:
        return Request(self.format, self.bits)

    @property
    def is_current(self) -> bool:
        """Whether this version of ovround would use it."""
        return self.version == ovround.__version__ and self.format_version == FORMAT_VERSION


@dataclass(frozen=True, slots=True)
class CachedModel:
    """A complete conversion; `used_s` is when it was last asked for, in seconds since 1970."""

    folder: Path
    record: Record
    used_s: float

    @property
    def key(self) -> str:
        return self.folder.name.rpartition("-")[2]

    def damage(self, *, contents: bool) -> str | None:
        """What is wrong with its files by the manifest, by size or by sha256 too; None where nothing is."""
        try:
            check_files(self.folder, read_manifest(self.folder), contents=contents)
        except (ArtifactError, OSError) as error:
            return str(error)
        return None


class ModelCache:
    """Every operation on the folder; processes may use it at once."""

    def __init__(self, folder: Path | None = None) -> None:
        self.folder = (cache_folder() if folder is None else folder) / "models"

    def models(self) -> list[CachedModel]:
        """All complete conversions, the last used first; a record that cannot be read counts as none."""
        found = []
        for path in self.folder.glob("*.json"):
            with contextlib.suppress(OSError, ValueError, TypeError):
                record = read_record(Record, load_json(path, LIMITS.json_bytes))
                found.append(CachedModel(path.with_suffix(""), record, path.stat().st_mtime))
        return sorted((model for model in found if model.folder.is_dir()), key=lambda model: -model.used_s)

    def named(self, model: str, request: Request) -> CachedModel | None:
        """The newest conversion of this name and request that this version would use: no network is asked."""
        fits = [
            one for one in self.models()
            if model in one.record.models and one.record.request == request and one.record.is_current
        ]  # fmt: skip
        return max(fits, key=lambda one: one.record.created_s, default=None)

    def chosen(self, model: str, format_name: str, identity: str | None) -> CachedModel | None:
        """The newest conversion of this name whose bits were chosen; `identity` that of a folder or file, None for a hub name."""
        fits = [
            one for one in self.models()
            if model in one.record.models and one.record.chosen and one.record.is_current
            and one.record.format == format_name and identity in (None, one.record.identity)
        ]  # fmt: skip
        return max(fits, key=lambda one: one.record.created_s, default=None)

    def choose(self, model: CachedModel) -> None:
        """Note that these bits are what is taken where nobody asks for any."""
        if not model.record.chosen:
            with contextlib.suppress(OSError):
                self.add(model.folder, dataclasses.replace(model.record, chosen=True))

    def place(self, model: str, identity: str, request: Request) -> Path:
        """The folder for a conversion, by the digest of all that decides its bytes, and a name for people."""
        decides = [identity, request.format, request.bits, ovround.__version__, FORMAT_VERSION]
        key = hashlib.sha256(json.dumps(decides).encode()).hexdigest()[:_KEY_CHARACTERS]
        name = re.sub(r"[^A-Za-z0-9._]+", "-", Path(model.partition("@")[0]).name).strip("-.") or "model"
        return self.folder / f"{name[:60]}-{key}"

    def at(self, folder: Path) -> CachedModel | None:
        """The complete conversion in `folder`."""
        return next((model for model in self.models() if model.folder == folder.absolute()), None)

    def used(self, model: CachedModel, named: str) -> None:
        """Note that it is used now, and by what name; a cache that cannot be written to stays as it is."""
        with contextlib.suppress(OSError):
            if named in model.record.models:
                os.utime(_record_of(model.folder))
            else:
                self.add(model.folder, dataclasses.replace(model.record, models=(*model.record.models, named)))

    def add(self, folder: Path, record: Record) -> CachedModel:
        """Write the record of a folder that is complete."""
        write_atomically(_record_of(folder), json.dumps(dataclasses.asdict(record), indent=1).encode())
        return CachedModel(folder, record, time.time())

    @contextlib.contextmanager
    def locked(self, name: str, on_wait: Callable[[str], None]) -> Iterator[None]:
        """Hold `name` against other processes, after waiting for one that holds it."""
        with contextlib.ExitStack() as stack:
            try:
                make_folder(self.folder)
                stack.enter_context(waiting_lock(self.folder / f".{name}.lock", on_wait))
            except OSError as error:
                raise output_error(error, self.folder) from error
            yield

    def select(self, words: list[str]) -> list[CachedModel]:
        """Conversions by key, the name of their folder, or the model's name; raises UsageError for a word that fits none."""
        models = self.models()
        chosen: dict[Path, CachedModel] = {}
        for word in words:
            path = str(Path(word).expanduser().absolute())
            fits = [
                one for one in models
                if {word, path} & {one.key, one.folder.name, str(one.folder), *one.record.models}
            ]  # fmt: skip
            if not fits:
                raise UsageError(
                    f"`{word}` is no model in the cache `{self.folder}`",
                    hint="`ovround cache list` names what is there",
                )
            chosen |= {one.folder: one for one in fits}
        return list(chosen.values())

    def remove(self, model: CachedModel) -> None:
        """Remove a conversion: its record first, so that nobody begins to use what is going. Engines that run it go on."""
        with self.locked(model.folder.name, lambda holder: None):
            try:
                _record_of(model.folder).unlink(missing_ok=True)
            except OSError as error:
                raise output_error(error, model.folder) from error
            remove_folder(model.folder)

    def to_prune(self, older_than_days: float | None, larger_than_bytes: int | None) -> list[CachedModel]:
        """Conversions of other versions, those not used for so many days, then the longest unused beyond so many bytes in all."""
        kept: list[CachedModel] = []
        going: list[CachedModel] = []
        for model in self.models():  # the last used first
            unused_days = (time.time() - model.used_s) / _DAY_S
            old = older_than_days is not None and unused_days > older_than_days
            total = sum(one.record.size_bytes for one in kept) + model.record.size_bytes
            beyond = larger_than_bytes is not None and total > larger_than_bytes
            (going if old or beyond or not model.record.is_current else kept).append(model)
        return going

    def remove_left_overs(self) -> int:
        """Remove what killed processes left: scratch folders, and folders without a record; the bytes that they took.

        What a process is writing stays: it holds the lock.
        """
        freed = 0
        complete = {model.folder for model in self.models()}
        for path in sorted(self.folder.iterdir()) if self.folder.is_dir() else []:
            scratch = _LEFT_OVER.fullmatch(path.name)
            if not path.is_dir() or path in complete or (path.name.startswith(".") and not scratch):
                continue
            lock = self.folder / f".{scratch[1] if scratch else path.name}.lock"
            try:
                handle = lock_file(lock)
            except (LockHeld, OSError):
                continue
            try:
                size = folder_bytes(path)
                remove_folder(path)
                freed += size
            finally:
                unlock_file(handle, lock)
        return freed


def folder_bytes(folder: Path) -> int:
    """Bytes of all files below `folder`."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def _record_of(folder: Path) -> Path:
    return folder.with_name(f"{folder.name}.json")
