"""Mutations of GGUF files: of their bytes, and of the numbers that a header is made of, each drawn from a seed."""

from __future__ import annotations

import random
import struct
from collections.abc import Iterator

_LENGTHS = (
    0,
    1,
    7,
    255,
    1 << 16,
    (1 << 31) - 1,
    1 << 31,
    1 << 32,
    (1 << 53) + 1,
    1 << 62,
    (1 << 63) - 1,
    1 << 63,
    (1 << 64) - 1,
)
_WORDS = (b"llama.", b"blk.0.", b"general.architecture", b"tokenizer.ggml.tokens", b"\xff\xfe", b"\0", b"output.weight")


def mutations(content: bytes, header_bytes: int, count: int, seed: int) -> Iterator[tuple[str, bytes]]:
    """`count` damaged contents with what was done; nine of ten damages lie in the first `header_bytes`."""
    for number in range(count):
        random_ = random.Random(f"{seed}/{number}")
        changed, words = bytearray(content), []
        for _ in range(random_.choice((1, 1, 1, 2, 3))):
            end = header_bytes if random_.random() < 0.9 else len(changed)
            words.append(_mutate(changed, min(end, len(changed)), random_))
        yield f"seed {seed}/{number}: {', '.join(words)}", bytes(changed)


def _mutate(content: bytearray, end: int, random_: random.Random) -> str:
    at = random_.randrange(max(end, 1))
    kind = random_.choice(("flip", "length", "length", "number", "cut", "insert", "remove", "word", "copy"))
    if kind == "flip" and content:
        content[min(at, len(content) - 1)] ^= 1 << random_.randrange(8)
    elif kind == "length":
        content[at : at + 8] = struct.pack("<Q", random_.choice(_LENGTHS))
    elif kind == "number":
        content[at : at + 4] = struct.pack("<I", random_.choice((0, 1, 4, 8, 9, 12, 13, 255, 1 << 30, (1 << 32) - 1)))
    elif kind == "cut":
        del content[at:]
    elif kind == "insert":
        content[at:at] = bytes(random_.choice((1, 4, 8, 64)))
    elif kind == "remove":
        del content[at : at + random_.choice((1, 4, 8, 64))]
    elif kind == "word":
        word = random_.choice(_WORDS)
        content[at : at + len(word)] = word
    elif kind == "copy":
        start = random_.randrange(max(end, 1))
        content[at : at + 32] = content[start : start + 32]
    return f"{kind} at {at}"
