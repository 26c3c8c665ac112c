"""`ovround-run` of a wheel with the C++ runtime: loads OpenVINO, and then the program, which is linked to no version of it."""

from __future__ import annotations

import ctypes
import os
import signal
import sys
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import NoReturn

from ovround.errors import EngineError
from ovround.runtime.engines.native.library import installed
from ovround.runtime.engines.native.openvino_versions import is_supported, supported_range

_PROGRAM = "libovround_run.so"


def main() -> NoReturn:
    """Run the program with this process's arguments, and exit with its status."""
    try:
        library = _load()
    except EngineError as error:
        sys.exit(f"error: {error}\nhint: {error.hint}")
    arguments = [os.fsencode(word) for word in sys.argv]
    values = (ctypes.c_char_p * (len(arguments) + 1))(*arguments, None)
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # the program has a handler of its own
    sys.exit(library.ovround_run(len(arguments), values))


def _load() -> ctypes.CDLL:
    program = installed(_PROGRAM)
    if program is None:
        raise EngineError(
            f"`{_PROGRAM}` is not installed", hint="OVROUND_NATIVE=1 pip install --force-reinstall ovround"
        )
    found = find_spec("openvino")
    folders = [] if found is None else found.submodule_search_locations or []
    openvino = next(
        (file for folder in folders for file in sorted(Path(folder, "libs").glob("libopenvino.so.*"))), None
    )
    if openvino is None:
        raise EngineError("OpenVINO's wheel is not installed", hint="pip install openvino")
    if not is_supported(version("openvino")):
        raise EngineError(
            f"OpenVINO is {version('openvino')}; ovround-run works with {supported_range()}",
            hint="install one of these versions, or use `ovround run`",
        )
    try:
        ctypes.CDLL(str(openvino), mode=ctypes.RTLD_GLOBAL)
        return ctypes.CDLL(str(program))
    except OSError as error:
        raise EngineError(
            f"`{program}` cannot be loaded with `{openvino}`: {error}", hint="pip install --upgrade openvino"
        ) from error
