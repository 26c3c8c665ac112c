"""`ovround selftest`: what to run first on a machine with Gaudi, and what to report when it fails."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Annotated

import typer

from ovround.cli.shared_flags import Json, Quiet
from ovround.cli.working import Working

NAME = "selftest"


def command(
    folder: Annotated[Path, typer.Argument(help="A small converted folder or checkpoint.")],
    device: Annotated[
        str, typer.Option("--device", "-d", help="Device: hpu, or hpu-emulated, which should pass anywhere.")
    ] = "hpu",
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Check everything that the Gaudi path assumes of the device; exit status 1 where something does not hold."""
    from ovround.cli.printing import print_json
    from ovround.errors import MissingExtraError, UsageError
    from ovround.runtime.engines import HPU_DEVICES, check_folder

    if device.lower() not in HPU_DEVICES:
        raise UsageError(f"device is {device}; one of {', '.join(HPU_DEVICES)} is checked")
    check_folder(folder, device)
    try:
        from ovround.runtime.hpu.selftest import selftest
    except ModuleNotFoundError as error:
        raise MissingExtraError(error.name or "torch", "convert") from error
    checks = []
    with Working(f"loading {folder}", quiet=quiet) as work:
        for check in selftest(folder, device.lower()):
            work.end()
            checks.append(check)
            if not json:
                typer.echo(f"{'passed' if check.passed else 'FAILED'}  {check.name}: {check.seen}")
            work.begin("the next check")
    if json:
        print_json({"device": device.lower(), "checks": [dataclasses.asdict(check) for check in checks]})
    if not all(check.passed for check in checks):
        raise typer.Exit(1)
