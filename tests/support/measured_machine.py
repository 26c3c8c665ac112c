"""A cache in which this machine was measured before: measuring takes seconds, and tests are not to depend on the result."""

from __future__ import annotations

import time

from ovround.measure.fit import machine

BANDWIDTH, CORE_OPERATIONS = 20e9, 50e9
_FUTURE_S = 3600  # so that no test lasts until the next measurement


def keep_speed() -> None:
    """Write `machine.json` into the cache that the environment names."""
    machine._keep(machine.MachineSpeed(machine._identity(), BANDWIDTH, CORE_OPERATIONS, time.time() + _FUTURE_S))
