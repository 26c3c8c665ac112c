"""`AdapterChoice`: an adapter that is merged into the source, and how strongly."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import PurePath

from ovround.errors import UsageError


@dataclass(frozen=True, slots=True)
class AdapterChoice:
    """The folder or hub name of a LoRA adapter; its low-rank changes are multiplied by `scale`."""

    model: str
    scale: float = 1.0

    def __post_init__(self) -> None:
        if not self.model:
            raise UsageError("adapter is empty", hint="--adapter FOLDER, or FOLDER:0.5 for half of its change")
        if not math.isfinite(self.scale):
            raise UsageError(f"scale of adapter `{self.model}` is {self.scale}; a finite number is needed")

    @classmethod
    def parse(cls, text: str) -> AdapterChoice:
        """Read `FOLDER` or `FOLDER:SCALE`, as llama.cpp's --lora-scaled does; raises UsageError."""
        model, separator, scale = text.rpartition(":")
        try:
            return cls(model, float(scale)) if separator else cls(text)
        except ValueError:
            return cls(text)  # a drive of Windows, or a name with a colon

    @property
    def spec(self) -> str:
        """As `parse` reads it, a folder by its own name, so that places change no bytes."""
        name = PurePath(self.model).name if PurePath(self.model).is_absolute() else self.model
        return name if self.scale == 1 else f"{name}:{self.scale:g}"
