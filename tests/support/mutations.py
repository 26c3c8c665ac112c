"""Mutations of files by their format: bytes of any file, values of JSON, headers of safetensors, attributes of XML.

A mutation is drawn from a seed, so that a failing case can be repeated. OVROUND_TEST_SCALE multiplies the number of cases.
"""

from __future__ import annotations

import copy
import json
import os
import random
import re
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

SCALE = int(os.environ.get("OVROUND_TEST_SCALE", "1"))
WRONG: tuple[Any, ...] = (
    None, True, -1, 0, 99, 10**12, 2**63, 10**400, 0.5, float("nan"), float("inf"), "", "x", "../../etc/passwd", "/dev/zero", "a\0b",
    "\ud800", [], {}, [[]], {"a": {}}, "9" * 5000,
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Damage:
    """One damaged file with a description of the damage; `content` is None for a removed file."""

    name: str
    description: str
    content: bytes | None


def damages(folder: Path, count: int, seed: int) -> Iterator[Damage]:
    """`count * SCALE` damages of the files of `folder`, each file in turn; mutations that change nothing are skipped."""
    files = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
    for number in range(count * SCALE):
        random_ = random.Random(f"{seed}/{number}")
        name = files[number % len(files)]
        content = (folder / name).read_bytes()
        description, changed = mutated(name, content, random_)
        if changed != content:
            yield Damage(name, f"seed {seed}/{number}: {description}", changed)


def mutated(name: str, content: bytes, random_: random.Random) -> tuple[str, bytes | None]:
    """One mutation: in 60 % of the cases it depends on the file's format, otherwise it changes bytes."""
    if random_.random() < 0.6:
        if name.endswith(".json"):
            return _json(content, random_)
        if name.endswith(".safetensors"):
            return _safetensors(content, random_)
        if name.endswith(".xml"):
            return _xml(content, random_)
    return _bytes(content, random_)


def damaged_copy(folder: Path, destination: Path, damage: Damage) -> Path:
    """Copy `folder` to `destination` with one file damaged; the other files are hard links."""
    shutil.rmtree(destination, ignore_errors=True)
    for path in sorted(folder.rglob("*")):
        copied = destination / path.relative_to(folder)
        if path.is_dir():
            continue
        copied.parent.mkdir(parents=True, exist_ok=True)
        if path.relative_to(folder).as_posix() != damage.name:
            os.link(path, copied)
        elif damage.content is not None:
            copied.write_bytes(damage.content)
    return destination


def _bytes(content: bytes, random_: random.Random) -> tuple[str, bytes | None]:
    kind = random_.choice(("cut", "flip", "zeros", "remove", "grow", "swap", "empty"))
    at = random_.randrange(max(len(content), 1))
    if kind == "cut":
        return f"cut at {at}", content[:at]
    if kind == "flip":
        bit = 1 << random_.randrange(8)
        return f"bit {bit} of byte {at}", content[:at] + bytes([content[at] ^ bit]) + content[
            at + 1 :
        ] if content else b""
    if kind == "zeros":
        size = min(random_.choice((1, 8, 512)), len(content) - at)
        return f"{size} zeros at {at}", content[:at] + bytes(size) + content[at + size :]
    if kind == "grow":
        return "grown", content + bytes(random_.choice((1, 4096)))
    if kind == "swap":
        half = len(content) // 2
        return "halves swapped", content[half:] + content[:half]
    return (kind, None) if kind == "remove" else (kind, b"")


def _entries(node: Any) -> list[tuple[Any, Any]]:
    """All (container, key) pairs of a document."""
    entries: list[tuple[Any, Any]] = []
    pairs = node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ()
    for key, value in pairs:
        entries.append((node, key))
        entries += _entries(value)
    return entries


def _json(content: bytes, random_: random.Random) -> tuple[str, bytes]:
    kind = random_.choice(("value", "value", "value", "remove", "add", "deep", "list", "twice"))
    if kind == "deep":
        return "nested 100,000 deep", b"[" * 100_000 + b"]" * 100_000
    if kind == "list":
        return "a list", b"[" + content + b"]"
    try:
        document = copy.deepcopy(json.loads(content))
    except ValueError:
        return "cut", content[:-1]
    entries = _entries(document)[:5000]
    if not entries or kind == "add":
        if isinstance(document, dict):
            document["unknown"] = random_.choice(WRONG)
        return "a key more", _dumped(document)
    container, key = random_.choice(entries)
    if kind == "twice" and isinstance(container, dict):
        return f"{key!s:.40} named otherwise", _dumped_after(document, container, key)
    if kind == "remove":
        del container[key]
        return f"without {key!s:.40}", _dumped(document)
    value = random_.choice(WRONG)
    container[key] = value
    return f"{key!s:.40} = {value!r:.40}", _dumped(document)


def _dumped_after(document: Any, container: Any, key: Any) -> bytes:
    container[f"{key}_"] = container.pop(key)
    return _dumped(document)


def _dumped(document: Any) -> bytes:
    return json.dumps(document).encode()


def _safetensors(content: bytes, random_: random.Random) -> tuple[str, bytes]:
    length = int.from_bytes(content[:8], "little")
    if random_.random() < 0.2:
        claimed = random_.choice((0, 1, length - 1, length + 1, len(content), 1 << 31, (1 << 63) + 5, (1 << 64) - 1))
        return f"header of {claimed} bytes", claimed.to_bytes(8, "little") + content[8:]
    description, header = _json(content[8 : 8 + length], random_)
    return f"header: {description}", len(header).to_bytes(8, "little") + header + content[8 + length :]


def _xml(content: bytes, random_: random.Random) -> tuple[str, bytes]:
    attributes = list(re.finditer(rb'="([^"]*)"', content))
    attribute = random_.choice(attributes)
    value = random_.choice(
        (b"", b"-1", b"99999999999999999999", b"x", b"1," * 500 + b"1", b"../../etc/passwd", b"4294967296")
    )
    return f"{attribute[0]!r:.40} = {value!r:.40}", content[: attribute.start(1)] + value + content[attribute.end(1) :]
