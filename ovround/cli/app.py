"""The commands, and the one place where errors become messages and exit statuses.

Exit status: 0 done, 1 failed, 2 wrong usage, 130 Ctrl-C, 143 terminated.
"""

from __future__ import annotations

import errno
import io
import os
import signal
import sys
import warnings
from typing import Annotated

import typer

import ovround
from ovround.cli import (
    bench,
    cache,
    chat,
    check,
    convert,
    demo,
    devices,
    evaluate,
    fit,
    inspect,
    profile,
    pull,
    quantize,
    run,
    selftest,
    serve,
)
from ovround.cli.option_flags import PanelCommand
from ovround.cli.stopping import raise_signals, signalled
from ovround.cli.working import say
from ovround.errors import OvroundError
from ovround.telemetry import without_telemetry

app = typer.Typer(
    name="ovround",
    help="Quantise language models with SignRound and run them on Intel hardware with OpenVINO and ONNX Runtime.",
    epilog="Errors end with exit status 1, wrong usage with 2. `--debug` before the command shows tracebacks.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,  # plain pages: they open faster, fit a pipe, and are the pages of the reference
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
for module in (
    convert, quantize, check, fit, pull, run, chat, serve, evaluate, bench, profile, inspect, devices, selftest, demo,
):  # fmt: skip
    app.command(module.NAME, cls=PanelCommand)(module.command)
app.add_typer(cache.app, name=cache.NAME)


_READERS = {
    module.NAME for module in (cache, check, run, chat, serve, fit, evaluate, bench, inspect, devices, selftest)
}
_SIGNALS = {signal.SIGINT: "stopped", signal.SIGTERM: "terminated"}


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"ovround {ovround.__version__}")
        raise typer.Exit


@app.callback()
def options(
    context: typer.Context,
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")] = False,
    version: Annotated[
        bool, typer.Option("--version", help="Print the version and exit.", callback=_version, is_eager=True)
    ] = False,
) -> None:
    """Options that stand before the command."""
    context.obj = debug


def _notes(error: BaseException) -> list[str]:
    """What the job said about an exception on its way here: what is left, and how to go on."""
    return getattr(error, "__notes__", [])


def _said(error: OSError) -> str | None:
    """What a user can do something about: a path that may not be opened, a full disk."""
    if error.errno in (errno.EACCES, errno.EPERM, errno.ELOOP) and error.filename is not None:
        return f"`{error.filename}` cannot be opened: {error.strerror}"
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return f"{f'`{error.filename}`' if error.filename else 'output'} cannot be written: {error.strerror}"
    return None


def _show_warning(message: Warning | str, *where: object) -> None:
    say(f"warning: {message}")


def main() -> None:
    """Run the command line and exit."""
    warnings.showwarning = _show_warning  # type: ignore[assignment]  # it takes where the warning was, and does not tell
    raise_signals(_SIGNALS)
    without_telemetry()
    if isinstance(sys.stdout, io.TextIOWrapper):  # a checkpoint's names may hold what no encoding can write
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
        app()
    except OvroundError as error:
        if "--debug" in sys.argv:
            raise
        print(f"error: {error}", file=sys.stderr)
        if error.hint:
            print(f"hint: {error.hint}", file=sys.stderr)
        for note in _notes(error):
            print(f"note: {note}", file=sys.stderr)
        sys.exit(error.exit_status)
    except BrokenPipeError:
        sys.exit(1)
    except OSError as error:
        said = _said(error)
        if said is None or "--debug" in sys.argv:
            raise
        print(f"error: {said}", file=sys.stderr, flush=True)
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # what stdout still holds is not tried again
        sys.exit(1)
    except BaseException as error:
        stop = signalled(error)
        if stop is None:
            raise
        command = next((word for word in sys.argv[1:] if not word.startswith("-")), "")
        notes = _notes(error) or _notes(stop) or ([] if command in _READERS else ["nothing was kept"])
        print("; ".join([_SIGNALS[stop.number], *notes]), file=sys.stderr, flush=True)
        # Everything of ours is tidy. A library stopped in the middle of its import can wait for its threads for ever.
        os._exit(128 + stop.number)
