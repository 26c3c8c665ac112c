"""Seconds a token: weight bytes over what memory gives, or over what the cores decode, whichever is slower; and a time for each layer.

A layer takes time whatever its size: its small operations, and the wait of the threads for each other. `bench` keeps what it
reached on this machine; where it ran a format at these bits, that replaces the table here.
"""

from __future__ import annotations

from ovround.measure.fit.machine import MachineSpeed
from ovround.runtime.devices import available_cores

LAYER_S = 150e-6
_MEMORY_SHARE = 0.9  # of the read bandwidth, that engines reach where memory is what limits them
# Weight bytes that a core decodes and multiplies, for each operation of `core_operations`. OpenVINO in 2, 4 and 8 bits is measured
# (docs/dev/log/measuring.md); 3 bits are stored in 4; the others are guesses. The native operator is limited by memory.
_BYTES_PER_OPERATION: dict[str, dict[int, float]] = {
    "openvino": {2: 0.056, 3: 0.104, 4: 0.104, 8: 0.149, 16: 0.3},
    "onnx": {2: 0.1, 3: 0.12, 4: 0.15, 8: 0.17, 16: 0.3},
}
_FASTEST, _SLOWEST = 0.25, 4.0  # of what is told without `bench`; a run beside other programs says little beyond


def token_seconds(
    speed: MachineSpeed, format_name: str, kernel: str, bits: int, layers: int, bytes_per_token: int
) -> float:
    """Seconds of one token after the first, batch 1."""
    rate = speed.bandwidth * _MEMORY_SHARE
    if kernel == "engine":
        decoded = _BYTES_PER_OPERATION[format_name][bits] * speed.core_operations * available_cores()
        rate = min(rate, decoded)
    reading = bytes_per_token / rate
    share = reached_share(speed, format_name, kernel, bits)
    if share is not None:
        reached = bytes_per_token / (speed.bandwidth * share)
        reading = min(max(reached, _FASTEST * reading), _SLOWEST * reading)
    return reading + layers * LAYER_S


def reached_share(speed: MachineSpeed, format_name: str, kernel: str, bits: int) -> float | None:
    """The largest share of the bandwidth that `bench` reached here at these bits, since others only slow it; None without a run."""
    shares = []
    for run in speed.runs:
        if (run.format, run.kernel, run.bits) == (format_name, kernel, bits):
            reading = max(run.seconds - run.layers * LAYER_S, run.seconds / 10)
            shares.append(run.bytes_per_token / reading / run.bandwidth)
    return max(shares, default=None)
