"""Imported by one of several processes: what the file named by OVROUND_TEST_FAULT says happens to it, `die 1` or `differ 2`.

The number is the block; without the file nothing happens.
"""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

from ovround.quant.block_store import FinishedBlock
from ovround.quant.passes.blocks import BlockQuantizer

_tell, _digest = BlockQuantizer._tell, FinishedBlock.digest


def planned() -> tuple[str, int]:
    path = Path(os.environ["OVROUND_TEST_FAULT"])
    what, _, block = path.read_text(encoding="utf-8").partition(" ") if path.is_file() else ("nothing", "", "0")
    return what, int(block)


def tell(self: Any, layer: int, block: FinishedBlock) -> None:
    if planned() == ("die", layer):
        os.kill(os.getpid(), signal.SIGKILL)
    _tell(self, layer, block)


def digest(self: FinishedBlock) -> str:
    what, layer = planned()
    wrong = what == "differ" and f".layers.{layer}." in self.tensors[0].name
    return "0" * 64 if wrong else _digest(self)


BlockQuantizer._tell = tell  # type: ignore[method-assign]
FinishedBlock.digest = digest  # type: ignore[method-assign]
