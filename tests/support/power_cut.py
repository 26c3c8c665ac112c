"""What a disk may hold after its power was cut: a record of what some work did, and every state that the record allows.

A disk owes nothing but what was synced: a file's bytes from its own `fsync`, a name from the `fsync` of its folder. Until
then bytes may be missing, old, zero or torn between sectors, and names may come in part or in another order. A rename is
taken to be one step, as every journaling file system has it.
"""

from __future__ import annotations

import copy
import os
import random
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

SECTOR = 512
ROOT = 0
KINDS = ("lost", "names alone", "in order", "in any order", "in any order")
_HEARD = ("open", "os.mkdir", "os.rename", "os.remove", "os.rmdir", "os.link", "os.truncate")


@dataclass(frozen=True, slots=True)
class Names:
    """`child` appears at `new`, vanishes from `old`, or both at once; a place is a folder's number and a name."""

    child: int
    old: tuple[int, str] | None
    new: tuple[int, str] | None

    def comes_before(self, later: Names) -> bool:
        """Whether `later` cannot have come to pass without this: of the same thing or place, or inside what this made."""
        alike = bool({self.old, self.new} & {later.old, later.new} - {None})
        return alike or self.child == later.child or self.child in _folders(later)


@dataclass(frozen=True, slots=True)
class Bytes:
    child: int
    content: bytes


@dataclass(frozen=True, slots=True)
class Sync:
    child: int


Event = Names | Bytes | Sync


class Recorder:
    """Looks at `folder` before Python changes something there, and after every fsync, when other writers' changes are seen."""

    def __init__(self) -> None:
        self.events: list[Event] = []
        self._folder: Path | None = None
        sys.addaudithook(self._hear)

    @contextmanager
    def recording(self, folder: Path) -> Iterator[Record]:
        """The record of what is done inside; what is there before counts as synced."""
        self.events, self._busy, self._count = [], False, ROOT
        self._inodes = {folder.stat().st_ino: ROOT}
        self._entries: dict[tuple[int, str], int] = {}
        self._stamps: dict[int, tuple[int, int]] = {}
        self._folder, real = folder, os.fsync
        self._look()
        start = Disk()
        for event in [*self.events, *(Sync(number) for number in self._inodes.values())]:
            start.add(event)
        self.events = []

        def fsync(handle: int) -> None:
            real(handle)
            self._look()
            number = self._inodes.get(os.fstat(handle).st_ino)
            if number is not None:
                self._stamps.pop(number, None)  # a clock of milliseconds may hide the last bytes
                self._look()
                self.events.append(Sync(number))

        os.fsync = fsync
        try:
            yield Record(start, self.events)
            self._look()
        finally:
            os.fsync, self._folder = real, None

    def _hear(self, event: str, arguments: tuple[Any, ...]) -> None:
        if self._folder is not None and event in _HEARD and not self._busy:
            self._look()

    def _look(self) -> None:
        assert self._folder is not None
        self._busy = True
        try:
            entries_now: dict[tuple[int, str], int] = {}
            changed: list[Event] = []
            seen: set[int] = set()
            self._walk(self._folder, ROOT, entries_now, changed, seen)
        finally:
            self._busy = False
        before = {number: at for at, number in self._entries.items()}
        now = {number: at for at, number in entries_now.items()}
        self.events += changed
        for number in {**before, **now}:
            if before.get(number) != now.get(number):
                self.events.append(Names(number, before.get(number), now.get(number)))
        self._entries = entries_now
        self._inodes = {inode: number for inode, number in self._inodes.items() if number in seen or number == ROOT}

    def _walk(
        self, folder: Path, number: int, entries_now: dict[tuple[int, str], int], changed: list[Event], seen: set[int]
    ) -> None:
        with os.scandir(folder) as entries:
            listed = sorted(entries, key=lambda entry: entry.name)
        for entry in listed:
            status = entry.stat(follow_symlinks=False)
            if status.st_ino not in self._inodes:
                self._count += 1
                self._inodes[status.st_ino] = self._count
            child = self._inodes[status.st_ino]
            entries_now[number, entry.name] = child
            seen.add(child)
            if entry.is_dir(follow_symlinks=False):
                self._walk(Path(entry.path), child, entries_now, changed, seen)
            elif self._stamps.get(child) != (stamp := (status.st_mtime_ns, status.st_size)):
                self._stamps[child] = stamp
                changed.append(Bytes(child, Path(entry.path).read_bytes()))


@dataclass(slots=True)
class Disk:
    """What is certain after some events, and what is not yet."""

    entries: dict[tuple[int, str], int] = field(default_factory=dict)
    pending: list[Names] = field(default_factory=list)
    synced: dict[int, bytes] = field(default_factory=dict)
    written: dict[int, bytes] = field(default_factory=dict)

    def add(self, event: Event) -> None:
        if isinstance(event, Names):
            self.pending.append(event)
        elif isinstance(event, Bytes):
            self.written[event.child] = event.content
        elif event.child in self.written:
            self.synced[event.child] = self.written[event.child]
        else:
            kept = [names for names in self.pending if event.child in _folders(names)]
            _apply(self.entries, kept)
            self.pending = [names for names in self.pending if names not in kept]

    def after_the_cut(self, kind: str, random_: random.Random) -> dict[str, bytes | None]:
        """One state, path by path; None for a folder. `kind` is one of KINDS."""
        entries, chosen = dict(self.entries), self._chosen(kind, random_)
        _apply(entries, chosen)
        contents = {
            number: self.synced.get(number, b"")
            if kind == "lost"
            else _torn(self.synced.get(number), now, kind, random_)
            for number, now in self.written.items()
        }
        tree: dict[str, bytes | None] = {}
        _spread(entries, contents, ROOT, "", tree)
        return tree

    def _chosen(self, kind: str, random_: random.Random) -> list[Names]:
        if kind == "lost":
            return []
        if kind == "names alone":
            return self.pending
        if kind == "in order":
            return self.pending[: random_.randint(0, len(self.pending))]
        wanted: list[Names] = []
        for names in reversed(self.pending):
            if random_.random() < 0.5 or any(names.comes_before(later) for later in wanted):
                wanted.insert(0, names)
        return wanted


def _folders(event: Names) -> set[int]:
    return {entry[0] for entry in (event.old, event.new) if entry is not None}


def _apply(entries: dict[tuple[int, str], int], events: list[Names]) -> None:
    for event in events:
        if event.old is not None and entries.get(event.old) == event.child:
            del entries[event.old]
        if event.new is not None:
            entries[event.new] = event.child


def _torn(synced: bytes | None, now: bytes, kind: str, random_: random.Random) -> bytes:
    if synced == now:
        return now
    old = synced or b""
    how = "nothing" if kind == "names alone" else random_.choice(("old", "new", "cut", "zeros", "sectors"))
    if how in ("old", "nothing"):
        return old
    if how == "cut":
        return now[: random_.randint(0, len(now))]
    if how == "zeros":
        return bytes(len(now))
    if how == "new":
        return now
    padded = old.ljust(len(now), b"\0")
    parts = (random_.choice((now, padded))[at : at + SECTOR] for at in range(0, len(now), SECTOR))
    return b"".join(parts)[: len(now)]


def _spread(
    entries: dict[tuple[int, str], int],
    contents: dict[int, bytes],
    folder: int,
    prefix: str,
    tree: dict[str, bytes | None],
) -> None:
    for (parent, name), child in entries.items():
        if parent == folder:
            tree[prefix + name] = contents.get(child)
            if child not in contents:
                _spread(entries, contents, child, f"{prefix}{name}/", tree)


@dataclass(frozen=True, slots=True)
class Record:
    """What was there, and what happened then."""

    start: Disk
    events: list[Event]


def states(record: Record, each: int, seed: int) -> Iterator[tuple[int, str, dict[str, bytes | None]]]:
    """`each` states before every event and after the last: the number of past events, the kind, the tree."""
    disk = copy.deepcopy(record.start)
    for number, event in enumerate([*record.events, None]):
        for draw in range(each):
            random_ = random.Random(f"{seed}/{number}/{draw}")
            kind = KINDS[(number + draw) % len(KINDS)] if draw else "lost"
            yield number, kind, disk.after_the_cut(kind, random_)
        if event is not None:
            disk.add(event)


def lay_out(tree: dict[str, bytes | None], folder: Path) -> None:
    """Write `tree` to `folder`, which must not exist."""
    folder.mkdir(parents=True)
    for name, content in tree.items():
        path = folder / name
        if content is None:
            path.mkdir(parents=True, exist_ok=True)
        else:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
