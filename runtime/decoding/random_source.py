"""The random numbers of sampling: xoshiro256**, seeded by splitmix64 (Blackman and Vigna, 2018; public domain designs).

A seed must give the same tokens in Python and in C++; these generators are ten lines in either language, numpy's are not.
"""

from __future__ import annotations

_MASK = (1 << 64) - 1


class Xoshiro256:
    """A stream of 64-bit numbers that `seed`, 0 to 2**64 - 1, determines."""

    def __init__(self, seed: int) -> None:
        self._state = splitmix64(seed, 4)

    def next_u64(self) -> int:
        s0, s1, s2, s3 = self._state
        result = _rotate_left(s1 * 5 & _MASK, 7) * 9 & _MASK
        s2, s3 = s2 ^ s0, s3 ^ s1
        self._state = [s0 ^ s3, s1 ^ s2, s2 ^ (s1 << 17 & _MASK), _rotate_left(s3, 45)]
        return result

    def uniform(self) -> float:
        """A double in [0, 1): the upper 53 bits of `next_u64`, times 2**-53."""
        return (self.next_u64() >> 11) * 2.0**-53


def splitmix64(seed: int, count: int) -> list[int]:
    """The first `count` outputs of splitmix64 from the state `seed`."""
    numbers = []
    for step in range(1, count + 1):
        z = seed + step * 0x9E3779B97F4A7C15 & _MASK
        z = (z ^ z >> 30) * 0xBF58476D1CE4E5B9 & _MASK
        z = (z ^ z >> 27) * 0x94D049BB133111EB & _MASK
        numbers.append(z ^ z >> 31)
    return numbers


def _rotate_left(x: int, bits: int) -> int:
    return (x << bits | x >> 64 - bits) & _MASK
