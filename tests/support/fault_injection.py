"""Imported by one of several processes, which then fails as the file named by OVROUND_TEST_FAULT says: `die 1` or `differ 2`.

The number is the block; without the file nothing happens.
"""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

from ovround.quant.emitted import FinishedBlock
from ovround.quant.passes.context import QuantContext

_report_block, _digest = QuantContext.report_block, FinishedBlock.digest


def planned() -> tuple[str, int]:
    path = Path(os.environ["OVROUND_TEST_FAULT"])
    fault, _, block = path.read_text(encoding="utf-8").partition(" ") if path.is_file() else ("nothing", "", "0")
    return fault, int(block)


def report_block(self: Any, layer: int, block: FinishedBlock) -> None:
    if planned() == ("die", layer):
        os.kill(os.getpid(), signal.SIGKILL)
    _report_block(self, layer, block)


def digest(self: FinishedBlock) -> str:
    fault, layer = planned()
    wrong = fault == "differ" and f".layers.{layer}." in self.tensors[0].name
    return "0" * 64 if wrong else _digest(self)


QuantContext.report_block = report_block  # type: ignore[method-assign]
FinishedBlock.digest = digest  # type: ignore[method-assign]
