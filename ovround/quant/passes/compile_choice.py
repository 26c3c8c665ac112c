"""Whether torch compiles the tuning steps; decided before torch is imported or anything is read.

Compilation takes time once for a model and a little for each block, so it pays only for long work. On the CPU torch writes C++,
which needs a compiler.
"""

from __future__ import annotations

import math
import os
import shutil
import sysconfig
from pathlib import Path

from ovround.errors import EngineError, UsageError
from ovround.models.decoder import Decoder

# Seconds saved for each multiplication of a step on one thread, and seconds of compilation for a model and each block.
_SAVED_S = 4e-12
_FIRST_S, BLOCK_COMPILE_S = 60.0, 4.0
_MARGIN = 2.0  # smallest ratio of saved to spent seconds that is worth it


def choose(wanted: str, device: str, decoder: Decoder, tokens: int, iters: int, *, integers: bool) -> bool:
    """Whether steps of `tokens` in this process, 0 where nothing is tuned, are compiled.

    `auto` compiles the tuning of `integers` on the CPU, if a compiler is installed and `iters` steps a block are long enough to
    repay it. Raises UsageError or EngineError where `on` is `wanted` and impossible.
    """
    missing = lacking() if device == "cpu" else None
    if wanted == "on":
        if not tokens:
            raise UsageError("compile is on, yet nothing is tuned", hint="leave it out")
        if decoder.largest_stack:
            raise UsageError(
                "compile is on, yet the model has experts, whose tokens are others at each step", hint="leave it out"
            )
        if device == "hpu":
            raise UsageError("compile is on, which torch's own compiler cannot for hpu", hint="leave it out")
        if missing is not None:
            raise EngineError(
                f"compile is on, which needs {missing}", hint='install it, or `compile = "off"` in the file of --tuning'
            )
        return True
    if wanted == "off" or device != "cpu" or missing is not None:
        return False
    if decoder.largest_stack or not integers:
        return False
    blocks, shapes = decoder.config.num_hidden_layers, decoder.tensors(0)
    weights = sum(math.prod(shapes[f"{name}.weight"]) for name in decoder.linears(0))
    saved_s = _SAVED_S * weights * tokens * iters * blocks / _threads()
    return saved_s > _MARGIN * (_FIRST_S + BLOCK_COMPILE_S * blocks)


def lacking() -> str | None:
    """What this machine lacks to compile for the CPU, in words; None: nothing."""
    compiler = os.environ.get("CXX", "g++")  # as torch looks for it on Linux
    if shutil.which(compiler) is None:
        return f"a C++ compiler (`{compiler}`)"
    if not (Path(sysconfig.get_path("include")) / "Python.h").is_file():
        return "Python's header Python.h"
    return None


def _threads() -> int:
    """About the number of threads that torch will use."""
    threads = os.environ.get("OMP_NUM_THREADS", "")
    return int(threads) if threads.isdecimal() and int(threads) else os.cpu_count() or 1
