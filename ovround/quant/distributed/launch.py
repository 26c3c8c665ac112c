"""How this process was started: alone, or by torchrun as one of several. Imports no torch."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass

from ovround.errors import UsageError

_NEEDED = ("RANK", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")


@dataclass(frozen=True, slots=True)
class Launch:
    """Process `rank` of `size` on all machines, `local_rank` on this one; the first is number 0."""

    rank: int = 0
    size: int = 1
    local_rank: int = 0

    def __post_init__(self) -> None:
        if not 0 <= self.rank < self.size or self.local_rank < 0:
            raise UsageError(f"process {self.rank} of {self.size}, {self.local_rank} on its machine, is impossible")

    @property
    def is_main(self) -> bool:
        """Whether this is the process that writes and prints."""
        return self.rank == 0

    @classmethod
    def from_environment(cls, environment: Mapping[str, str] = os.environ) -> Launch:
        """The launch that torchrun describes; one process where WORLD_SIZE is absent or 1. Raises UsageError if it is incomplete."""
        if environment.get("WORLD_SIZE", "1") == "1":
            return cls()
        missing = [name for name in _NEEDED if name not in environment]
        if missing:
            raise UsageError(
                f"WORLD_SIZE is `{environment['WORLD_SIZE']}`, yet {missing[0]} is not set",
                hint="torchrun sets all of them: torchrun --nproc-per-node 2 -m ovround convert ...",
            )
        numbers = {}
        for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK"):
            try:
                numbers[name] = int(environment[name])
            except ValueError:
                raise UsageError(f"{name} is `{environment[name]}`, which is no number") from None
        return cls(numbers["RANK"], numbers["WORLD_SIZE"], numbers["LOCAL_RANK"])
