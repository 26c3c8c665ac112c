"""A cache in which this machine was measured before: measuring takes seconds, and tests are not to depend on the result."""

from __future__ import annotations

from ovround.measure.fit import machine

BANDWIDTH, OPERATIONS = 20e9, 50e9


def keep_speed() -> None:
    """Write `machine.json` into the cache that the environment names."""
    machine._keep(machine.MachineSpeed(machine._identity(), BANDWIDTH, OPERATIONS))
