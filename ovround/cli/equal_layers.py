"""Tensors of equal layers in one line: `model.layers.[0-29].mlp.up_proj`."""

from __future__ import annotations

import re
from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

T = TypeVar("T")
_NUMBER = re.compile(r"(?<=\.)\d+(?=\.|$)")


@dataclass(frozen=True, slots=True)
class EqualLayers(Generic[T]):
    """Tensors that differ in the numbers of their names alone; `name` has the numbers as ranges."""

    name: str
    tensors: tuple[T, ...]


def equal_layers(tensors: Iterable[T], name: Callable[[T], str], kind: Callable[[T], Hashable]) -> list[EqualLayers[T]]:
    """`tensors` in groups of one `kind`, in the order of each group's first."""
    groups: dict[tuple[str, Hashable], list[T]] = {}
    for tensor in tensors:
        groups.setdefault((_NUMBER.sub("*", name(tensor)), kind(tensor)), []).append(tensor)
    return [EqualLayers(_joined([name(tensor) for tensor in group]), tuple(group)) for group in groups.values()]


def _joined(names: Sequence[str]) -> str:
    if len(names) == 1:
        return names[0]
    columns = zip(*(_NUMBER.findall(name) for name in names), strict=True)
    ranges = iter([_ranges({int(number) for number in column}) for column in columns])
    return _NUMBER.sub(lambda match: next(ranges), names[0])


def _ranges(numbers: set[int]) -> str:
    """`[0-3,7]`; a single number as it is."""
    runs: list[list[int]] = []
    for number in sorted(numbers):
        if runs and number == runs[-1][1] + 1:
            runs[-1][1] = number
        else:
            runs.append([number, number])
    texts = [f"{first}-{last}" if last > first else f"{first}" for first, last in runs]
    return f"[{','.join(texts)}]" if len(numbers) > 1 else texts[0]
