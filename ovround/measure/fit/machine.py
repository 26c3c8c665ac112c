"""How fast this machine is: measured once and kept in the cache, with what tells the machine from others.

`machine.json` also keeps what `ovround bench` reached here, from which later predictions learn.
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
_MATRIX, _PRODUCTS = 1024, 8


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
    """Bytes that all cores read in a second, and float32 operations of a matrix product."""

    identity: str
    bandwidth: float
    operations: float
    runs: tuple[ObservedRun, ...] = ()


def machine_speed(*, measure_again: bool = False) -> MachineSpeed:
    """The speed of this machine, from the cache where it was measured on this machine before; takes about two seconds else."""
    kept, identity = _kept(), _identity()
    if kept is not None and kept.identity == identity and not measure_again:
        return kept
    runs = kept.runs if kept is not None and kept.identity == identity else ()
    speed = MachineSpeed(identity, measure_read_bandwidth(), _operations(), runs)
    _keep(speed)
    return speed


def add_run(run: ObservedRun) -> None:
    """Keep what a run reached, the newest of as many as are worth keeping; a cache that cannot be written stays as it is."""
    speed = machine_speed()
    fastest = max(speed.bandwidth, run.bandwidth)  # other programs make it look slower, never faster
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


def _operations() -> float:
    """Operations a second of a product of float32 matrices, the best of a few."""
    matrix = np.ones((_MATRIX, _MATRIX), np.float32)
    matrix @ matrix
    seconds = []
    for _ in range(_PRODUCTS):
        started = time.perf_counter()
        matrix @ matrix
        seconds.append(time.perf_counter() - started)
    return 2 * _MATRIX**3 / min(seconds)
