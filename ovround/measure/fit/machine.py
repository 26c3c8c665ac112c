"""How fast this machine is: measured, and kept in the cache with what tells the machine from others.

Other programs make a machine look slower, never faster. So it is measured again at times, and
the best is kept. `machine.json` also keeps what `ovround bench` reached here, from which later predictions learn.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import time
from dataclasses import dataclass, replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import numpy as np

from ovround.artifact.output_folder import make_folder, write_atomically
from ovround.conversion.cache import cache_folder
from ovround.limits import LIMITS
from ovround.measure.bandwidth import measure_read_bandwidth
from ovround.record import load_json, read_record
from ovround.runtime.devices import machine

FILE = "machine.json"
_MOST_RUNS = 30
_AGE_S = 600  # of a measurement, before the next one
# Products of small matrices: OpenBLAS uses one thread for up to 64 * 64 * 64 multiplications.
_MATRIX, _MATRICES, _TRIES = 48, 256, 20


@dataclass(frozen=True, slots=True)
class ObservedRun:
    """What a `bench` on the CPU reached: seconds a token for a model of so many bytes a token and layers."""

    format: str
    kernel: str
    bits: int
    layers: int
    bytes_per_token: int
    seconds: float
    bandwidth: float


@dataclass(frozen=True, slots=True)
class MachineSpeed:
    """Bytes that all cores read in a second, float32 operations of one core in products; `measured_at` is a time since the epoch."""

    identity: str
    bandwidth: float
    core_operations: float
    measured_at: float
    runs: tuple[ObservedRun, ...] = ()


def machine_speed() -> MachineSpeed:
    """The best that was measured on this machine; where the last measurement is older than ten minutes, it takes a second more."""
    kept, identity, now = _kept(), _identity(), time.time()
    if kept is not None and kept.identity != identity:
        kept = None
    if kept is not None and now - kept.measured_at < _AGE_S:
        return kept
    speed = MachineSpeed(identity, measure_read_bandwidth(), _core_operations(), now)
    if kept is not None:
        bandwidth = max(kept.bandwidth, speed.bandwidth)
        operations = max(kept.core_operations, speed.core_operations)
        speed = replace(speed, bandwidth=bandwidth, core_operations=operations, runs=kept.runs)
    _keep(speed)
    return speed


def add_run(run: ObservedRun) -> None:
    """Keep what a run reached, the newest of as many as are worth keeping; a cache that cannot be written stays as it is."""
    speed = machine_speed()
    fastest = max(speed.bandwidth, run.bandwidth)
    _keep(replace(speed, bandwidth=fastest, runs=(*speed.runs, run)[-_MOST_RUNS:]))


def _path() -> Path:
    return cache_folder() / FILE


def _kept() -> MachineSpeed | None:
    with contextlib.suppress(OSError, ValueError, TypeError):
        return read_record(MachineSpeed, load_json(_path(), LIMITS.json_bytes))
    return None


def _keep(speed: MachineSpeed) -> None:
    with contextlib.suppress(OSError):
        make_folder(_path().parent)
        write_atomically(_path(), json.dumps(dataclasses.asdict(speed), indent=1).encode())


def _identity() -> str:
    """The processor, its cores that may be used, what it can compute, and the engine's version."""
    host = machine()
    with contextlib.suppress(PackageNotFoundError):
        return f"{host.cpu}, {host.cores} cores, {' '.join(host.cpu_flags)}, openvino {version('openvino')}"
    return f"{host.cpu}, {host.cores} cores, {' '.join(host.cpu_flags)}"


def _core_operations() -> float:
    """Operations a second of one core, the best of some tries; the process's own time, which waiting for a core does not add to."""
    matrices = np.ones((_MATRICES, _MATRIX, _MATRIX), np.float32)
    seconds = []
    for _ in range(_TRIES):
        started = time.process_time()
        matrices @ matrices
        seconds.append(time.process_time() - started)
    return 2 * _MATRICES * _MATRIX**3 / min(seconds)
