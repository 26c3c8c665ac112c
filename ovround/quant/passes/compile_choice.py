"""Whether torch compiles the tuner's steps: known before torch is imported or anything is read.

Compiling takes its time once for a model and a little for each block, so only long work repays it. On the CPU torch writes
C++, which a compiler of the system builds.
"""

from __future__ import annotations

import math
import os
import shutil
import sysconfig
from pathlib import Path

from ovround.errors import EngineError, UsageError
from ovround.models.decoder import Decoder
from ovround.options.convert_options import ConvertOptions

# Seconds that one multiplication of a step saves on one thread, and what is paid (docs/log.md, 2026-11-29).
_SAVED_S = 4e-12
_FIRST_S, _BLOCK_S = 60.0, 4.0
_MARGIN = 2.0  # what is saved beside what is paid, from which on it is worth it


def choose(options: ConvertOptions, decoder: Decoder, tokens: int) -> str:
    """`on` or `off` for a conversion whose steps see so many `tokens` in this process, 0 where nothing is tuned.

    `auto` compiles integer grids on the CPU, where a compiler is there and the steps are long enough to repay it; `options`
    name the device that is used. Raises UsageError or EngineError where `on` is asked for and cannot be.
    """
    missing = lacking() if options.device == "cpu" else None
    if options.compile == "on":
        if not tokens:
            raise UsageError("compile is on, yet nothing is tuned", hint="leave it out")
        if decoder.config.experts is not None:
            raise UsageError(
                "compile is on, yet the model has experts, whose tokens are others at each step", hint="leave it out"
            )
        if options.device == "hpu":
            raise UsageError("compile is on, which torch's own compiler cannot for hpu", hint="leave it out")
        if missing is not None:
            raise EngineError(f"compile is on, which needs {missing}", hint="install it, or --compile off")
        return "on"
    if options.compile == "off" or options.device != "cpu" or missing is not None:
        return "off"
    if decoder.config.experts is not None or options.tuner != "signround":
        return "off"
    blocks, shapes = decoder.config.num_hidden_layers, decoder.tensors(0)
    weights = sum(math.prod(shapes[f"{name}.weight"]) for name in decoder.linears(0))
    saved_s = _SAVED_S * weights * tokens * options.steps * blocks / _threads()
    return "on" if saved_s > _MARGIN * (_FIRST_S + _BLOCK_S * blocks) else "off"


def lacking() -> str | None:
    """What compiling for the CPU needs and this machine does not have, in words; None: nothing."""
    compiler = os.environ.get("CXX", "g++")  # as torch looks for it on Linux
    if shutil.which(compiler) is None:
        return f"a C++ compiler (`{compiler}`)"
    if not (Path(sysconfig.get_path("include")) / "Python.h").is_file():
        return "Python's header Python.h"
    return None


def _threads() -> int:
    """About as many as torch will use."""
    wanted = os.environ.get("OMP_NUM_THREADS", "")
    return int(wanted) if wanted.isdecimal() and int(wanted) else os.cpu_count() or 1
