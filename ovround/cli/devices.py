"""`ovround devices`: what this machine can run on; the lines to paste into an issue."""

from __future__ import annotations

import dataclasses

import typer

from ovround.cli.shared_flags import Json, Quiet
from ovround.cli.working import Working

NAME = "devices"


def command(json: Json = False, quiet: Quiet = False) -> None:
    """List devices, libraries and what the processor offers."""
    import ovround
    from ovround.cli.printing import print_json, print_table
    from ovround.limits import LIMITS
    from ovround.runtime.devices import devices, kernels, machine

    with Working("asking the engines for their devices", quiet=quiet):
        found_devices, host, computing = devices(), machine(), kernels()
    if json:
        print_json(
            {
                "ovround": ovround.__version__,
                "machine": dataclasses.asdict(host),
                "devices": [dataclasses.asdict(device) for device in found_devices],
                "kernels": dataclasses.asdict(computing),
                "limits": dataclasses.asdict(LIMITS),
            }
        )
        return
    typer.echo(f"ovround {ovround.__version__}")
    for field in dataclasses.fields(host):
        value = getattr(host, field.name)
        if isinstance(value, dict):
            value = ", ".join(f"{name} {version}" for name, version in value.items())
        elif isinstance(value, (tuple, list)):
            value = ", ".join(str(item) for item in value)
        typer.echo(f"{field.name}: {value}")
    print_table(
        ["engine", "device", "name", "available", "note"],
        [
            [device.engine, device.device, device.full_name, "yes" if device.available else "no", device.note or ""]
            for device in found_devices
        ],
    )
    words = [computing.kernel, *([computing.instruction_set] if computing.instruction_set else [])]
    note = f"  ({computing.note})" if computing.note else ""
    typer.echo(f"kernels: {', '.join(words)}{note}")
    bounds = ", ".join(f"{name} {value}" for name, value in dataclasses.asdict(LIMITS).items())
    typer.echo(f"limits: {bounds}")
