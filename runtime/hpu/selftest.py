"""What to run first on a machine with Gaudi: everything that this path assumes of the device and could not be tried without one.

Each check says what it saw; the first that fails names what to report. The same checks pass on `hpu-emulated`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from ovround.errors import EngineError, OvroundError
from ovround.runtime.engine import TokenIds
from ovround.runtime.engines.hpu import HpuEngine
from ovround.runtime.hpu.device import EMULATED, probe

_TOLERANCE = 0.1  # of the largest logit: bfloat16 keeps 8 bits, and sums are taken in other orders
_TOKENS, _WARM_UP = 24, 24
_AT_REST = 1.05


@dataclass(frozen=True, slots=True)
class Check:
    """One assumption: whether it holds, and what was seen."""

    name: str
    passed: bool
    seen: str


def selftest(folder: Path, device: str = "hpu") -> Iterator[Check]:
    """Check `device` with the model in `folder`; the checks come as they end, and the last is the first that fails."""
    checks: list[Callable[[HpuEngine, HpuEngine], Check]] = [_logits, _batch, _greedy, _compilations, _memory]
    if device != EMULATED:
        probed = probe()
        seen = f"{probed.devices} x {probed.device_name}, mode {probed.mode}, torch {probed.torch_version}, {probed.operator}"
        yield Check("device", probed.available, probed.missing or seen)
        if not probed.available:
            return
    try:
        ours = HpuEngine(folder, device)
        reference = HpuEngine(folder, EMULATED)
    except OvroundError as error:
        yield Check("model and known answers of convert_from_uint4", False, str(error))
        return
    yield Check("model and known answers of convert_from_uint4", True, ours.device)
    for check in checks:
        try:
            result = check(ours, reference)
        except (EngineError, RuntimeError) as error:
            result = Check(check.__name__.strip("_"), False, f"{type(error).__name__}: {str(error).splitlines()[0]}")
        yield result
        if not result.passed:
            return


def _prompt(engine: HpuEngine) -> list[int]:
    ids: list[int] = np.random.default_rng(0).integers(0, engine.vocab_size, 20).tolist()
    return ids


def _logits(ours: HpuEngine, reference: HpuEngine) -> Check:
    """A prompt's logits against the CPU's."""
    ids: TokenIds = np.array([_prompt(ours)], np.int64)
    mine, theirs = ours.logits(ids), reference.logits(ids)
    error = float(np.abs(mine - theirs).max() / np.abs(theirs).max())
    return Check("logits against the CPU", error < _TOLERANCE, f"largest difference {error:.4f} of the largest logit")


def _batch(ours: HpuEngine, reference: HpuEngine) -> Check:
    """A padded batch gives what its rows give alone."""
    rows = [_prompt(ours), _prompt(ours)[:3]]
    ours.reset()
    together = ours.prefill(rows)
    alone = []
    for row in rows:
        ours.reset()
        alone.append(ours.prefill([row])[0])
    error = float(np.abs(together - np.stack(alone)).max() / np.abs(together).max())
    return Check("rows of a batch", error < _TOLERANCE, f"largest difference {error:.4f} of the largest logit")


def _greedy(ours: HpuEngine, reference: HpuEngine) -> Check:
    """The loop on the device chooses what the host would choose step by step."""
    ours.reset()
    first = int(ours.prefill([_prompt(ours)])[0].argmax())
    chosen = ours.decode_greedy([first], _TOKENS)[0].tolist()
    ours.reset()
    token, same = int(ours.prefill([_prompt(ours)])[0].argmax()), 0
    for step in range(_TOKENS):
        token = int(ours.decode([token])[0].argmax())
        same += token == chosen[step]
    return Check("greedy on the device", same == _TOKENS, f"{same} of {_TOKENS} tokens as chosen by the host")


def _compilations(ours: HpuEngine, reference: HpuEngine) -> Check:
    """After a warm-up nothing is compiled any more."""
    most = min(_WARM_UP, ours.context_length)
    for rows in (1, 2):
        ours.warm_up(rows, most)
    _greedy_steps(ours, most)  # what is not the model's: copies of the cache, choices
    before = ours.compilations()
    _greedy_steps(ours, most)
    more = ours.compilations() - before
    return Check("compilations after the warm-up", more == 0, f"{before} before, {more} after")


def _greedy_steps(engine: HpuEngine, most: int) -> None:
    for length in (1, 7, 9, 16):
        engine.reset()
        engine.prefill([_prompt(engine)[: min(length, most - 8)], [1]])
        engine.decode([1, 2])
        engine.keep([0])
        engine.decode_greedy([3], 4)


def _memory(ours: HpuEngine, reference: HpuEngine) -> Check:
    """Weights at rest take what they take packed."""
    at_rest, packed = ours.size_bytes(), reference.size_bytes()
    seen = f"{at_rest / 1e6:.2f} MB of weights"
    if "emulating" not in ours.device:
        allocated = int(torch.get_device_module("hpu").memory_allocated()) - ours.cache_bytes()
        seen, at_rest = f"{seen}, {allocated / 1e6:.2f} MB allocated besides the cache", allocated
    return Check("memory at rest", at_rest < packed * _AT_REST, seen)
