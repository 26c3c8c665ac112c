"""The choice that `--time` makes: three plain options, and the file that keeps it for a run that continues."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ovround.artifact.output_folder import write_atomically
from ovround.options.convert_options import ConvertOptions
from ovround.options.option import declared, plain
from ovround.options.units import shown_duration

FILE = "time.json"


@dataclass(frozen=True, slots=True)
class Choice:
    """Steps a block, samples to tune on and their tokens; the seconds of the tuning by estimate, and what the user gave."""

    iters: int
    nsamples: int
    seqlen: int
    seconds: float
    given: Mapping[str, Any]

    def into(self, options: ConvertOptions) -> ConvertOptions:
        """The options with the choice named."""
        return replace(options, iters=self.iters, nsamples=self.nsamples, seqlen=self.seqlen)

    @property
    def words(self) -> str:
        """The flags that give the same without measuring, and the estimate."""
        flags = f"--iters {self.iters} --nsamples {self.nsamples} --seqlen {self.seqlen}"
        return f"{flags}; the tuning takes {shown_duration(self.seconds)} by estimate"

    def write(self, folder: Path) -> None:
        """Keep it in the working folder; raises OSError."""
        values = {name: getattr(self, name) for name in self.__slots__}
        write_atomically(folder / FILE, json.dumps(values, indent=1).encode())


def given_values(options: ConvertOptions, time_s: float) -> dict[str, Any]:
    """What a choice depends on, of all that a user says."""
    values = plain(options)
    decisive = {
        entry.name: values[entry.name] for entry in declared(ConvertOptions) if entry.option.fingerprint != "none"
    }
    as_read: dict[str, Any] = json.loads(json.dumps({**decisive, "time_s": time_s}))
    return as_read


def read_choice(folder: Path, given: Mapping[str, Any]) -> Choice | None:
    """The choice that an interrupted run with the same options and time has kept; None where there is none, or it is damaged."""
    try:
        choice = Choice(**json.loads((folder / FILE).read_bytes()))
    except (OSError, ValueError, TypeError, RecursionError):
        return None
    whole = all(isinstance(value, int) and value > 0 for value in (choice.iters, choice.nsamples, choice.seqlen))
    return choice if whole and choice.given == given else None
