"""SentencePiece's precompiled normaliser: a double-array trie (darts-clone) and the texts that its leaves point to.

The library that applies it trusts every index. A damaged one would end the process, so each is checked here.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ovround.errors import CheckpointError


def check_charsmap(data: bytes) -> None:
    """Raise CheckpointError unless every unit that a text can reach lies in the array, and every leaf's text in the rest."""
    size = int.from_bytes(data[:4], "little")
    if len(data) < 8 or size % 4 or not 4 <= size <= len(data) - 4:
        raise CheckpointError(f"the precompiled normaliser of the GGUF file has {len(data)} bytes, and its trie {size}")
    units = np.frombuffer(data, "<u4", size // 4, 4).astype(np.int64)
    texts = data[4 + size :]
    values = [
        value
        for value in _leaves(units)
        if not (0 <= value < len(texts) and b"\0" in texts[value:]) or not _is_text(texts, value)
    ]
    if values:
        raise CheckpointError(
            f"the precompiled normaliser of the GGUF file points to text {values[0]} of {len(texts)} bytes"
        )


def _leaves(units: NDArray[np.int64]) -> list[int]:
    """Offsets of the texts of all leaves; raises CheckpointError for a unit outside of the array, or a trie with a circle."""
    bytes_ = np.arange(1, 256)
    nodes = _children(units, np.array([0]))
    leaves: list[int] = []
    visited = 0
    while len(nodes):
        places = (nodes[:, None] ^ bytes_).reshape(-1)
        if places.max(initial=0) >= len(units):
            raise CheckpointError(f"the precompiled normaliser of the GGUF file leaves its {len(units)} units")
        labels = np.tile(bytes_, len(nodes))
        places = places[(units[places] & (1 << 31 | 0xFF)) == labels]
        visited += len(places)
        if visited > len(units):
            raise CheckpointError("the precompiled normaliser of the GGUF file runs in a circle")
        nodes = _children(units, places)
        ends = nodes[(units[places] >> 8 & 1) == 1]
        if ends.max(initial=0) >= len(units):
            raise CheckpointError(f"the precompiled normaliser of the GGUF file leaves its {len(units)} units")
        leaves += (units[ends] & 0x7FFFFFFF).tolist()
    return leaves


def _children(units: NDArray[np.int64], places: NDArray[np.int64]) -> NDArray[np.int64]:
    """Where the children of the units at `places` begin."""
    chosen = units[places]
    children: NDArray[np.int64] = places ^ (chosen >> 10 << ((chosen & 512) >> 6))
    return children


def _is_text(texts: bytes, start: int) -> bool:
    try:
        texts[start : texts.index(b"\0", start)].decode()
    except UnicodeDecodeError:
        return False
    return True
