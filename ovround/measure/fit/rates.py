"""Seconds a token: weight bytes over the read bandwidth, times what engines reach of it, and a time for each layer.

A layer takes time whatever its size: its small operations, and the wait of the threads for each other. `bench` keeps what it
reached on this machine; where it ran a format at these bits, that replaces the share from the table here.
"""

from __future__ import annotations

import statistics

from ovround.measure.fit.machine import MachineSpeed

LAYER_S = 150e-6
# Shares of the read bandwidth, by format and kernel, for weights of so many bits. OpenVINO's and ONNX Runtime's own kernels decode
# 2 and 3 bits in more work than they save in bytes.
_SHARES: dict[tuple[str, str], dict[int, float]] = {
    ("openvino", "native"): {2: 0.8, 3: 0.85, 4: 0.9, 8: 0.9, 16: 0.9},
    ("openvino", "engine"): {2: 0.25, 3: 0.5, 4: 0.5, 8: 0.7, 16: 0.8},
    ("onnx", "native"): {2: 0.8, 3: 0.85, 4: 0.9, 8: 0.9, 16: 0.9},
    ("onnx", "engine"): {2: 0.5, 3: 0.7, 4: 0.75, 8: 0.8, 16: 0.8},
}
_LOWEST, _HIGHEST = 0.02, 1.5


def token_seconds(
    speed: MachineSpeed, format_name: str, kernel: str, bits: int, layers: int, bytes_per_token: int
) -> float:
    """Seconds of one token after the first, batch 1."""
    share = reached_share(speed, format_name, kernel, bits)
    return bytes_per_token / (speed.bandwidth * share) + layers * LAYER_S


def reached_share(speed: MachineSpeed, format_name: str, kernel: str, bits: int) -> float:
    """The median share that `bench` reached here at these bits, or that of the table."""
    reached = []
    for run in speed.runs:
        if (run.format, run.kernel, run.bits) == (format_name, kernel, bits):
            reading = max(run.seconds - run.layers * LAYER_S, run.seconds / 10)
            reached.append(run.bytes_per_token / reading / run.bandwidth)
    if not reached:
        return _SHARES[format_name, kernel][bits]
    return min(max(statistics.median(reached), _LOWEST), _HIGHEST)
