"""`serve`: a folder loaded and answered for, until a signal comes."""

from __future__ import annotations

import logging
import socket
from pathlib import Path

import uvicorn
from fastapi import FastAPI

from ovround.errors import UsageError
from ovround.runtime.engines import HPU_DEVICES, OPENVINO_FILE, check_kernel
from ovround.runtime.server.app import create_app
from ovround.runtime.server.dispatch import Dispatcher, is_openvino
from ovround.runtime.server.settings import ServerSettings
from ovround.runtime.server.slow_clients import TimedProtocol
from ovround.runtime.server.wire import EngineSettings

_BACKLOG = 2048


def open_dispatcher(
    folder: Path, settings: ServerSettings, device: str = "CPU", *, exact: bool = False, threads: int | None = None,
    batching: bool = True, cache_gib: int = 0, draft_model: Path | None = None, prompt_lookup: bool = False,
    verify: bool = True, kernel: str = "auto",
) -> Dispatcher:  # fmt: skip
    """Load the model in `folder`. `batching` is for OpenVINO folders; guesses are made by our own loop alone.

    Raises UsageError where answers would be batched but `kernel` is `native`: openvino_genai multiplies with OpenVINO's.
    """
    check_kernel(kernel)
    guesses = draft_model is not None or prompt_lookup
    # An NPU has one row and no paged attention, Gaudi's engine no pipeline of others.
    alone = device.lower() in HPU_DEVICES or device.upper().startswith("NPU")
    library, batching = _native_library(folder, device, kernel, batching=batching)
    batches = batching and not guesses and is_openvino(folder) and not alone
    if batches and kernel == "native" and library is None:
        raise UsageError(
            "kernel is `native`, and openvino_genai, which batches answers, multiplies with OpenVINO's own",
            hint="--one-by-one, or --kernel auto",
        )
    engine = EngineSettings(
        str(folder), batches, device, exact=exact, threads=threads,
        slots=settings.max_running, cache_gib=cache_gib, extension=None if library is None else str(library),
        prompt_lookup=prompt_lookup, draft_model=None if draft_model is None else str(draft_model), verify_draft=verify,
        kernel=kernel,
    )  # fmt: skip
    return Dispatcher(settings, engine, verify=verify)


def _native_library(folder: Path, device: str, kernel: str, *, batching: bool) -> tuple[Path | None, bool]:
    """The library of the native operator where the folder needs it, and whether answers can still be batched.

    openvino_genai reads the folder itself: it takes the library, and cannot be given an expanded model.
    """
    path = folder / OPENVINO_FILE
    if not path.is_file():
        return None, batching
    from ovround.runtime.engines.native.operator import needs_operator, usable_library  # OpenVINO, only for its folders

    if not needs_operator(path):
        return None, batching
    library = usable_library(path, device.upper(), kernel)
    return library, batching and library is not None


def listen(host: str, port: int) -> socket.socket:
    """A socket bound to the address, before a model is loaded; raises UsageError for one that is taken or not ours."""
    if not 0 <= port <= 65535:
        raise UsageError(f"port is {port}; 0 to 65535 are allowed")
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        bound = socket.socket(family, kind, protocol)
        try:
            bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            bound.bind(address)
        except OSError:
            bound.close()
            raise
    except OSError as error:
        raise UsageError(f"cannot listen on {host}:{port}: {error}", hint="choose another --port or --host") from error
    return bound


def serve(dispatcher: Dispatcher, bound: socket.socket, *, log_level: str = "warning") -> None:
    """Answer on `bound` until SIGINT or SIGTERM; then streams under way have five seconds."""
    logging.getLogger("asyncio").setLevel(logging.ERROR)  # it warns of each client that has left
    uvicorn.Server(server_config(create_app(dispatcher), log_level=log_level)).run(sockets=[bound])


def server_config(app: FastAPI, *, log_level: str, shutdown_s: int = 5) -> uvicorn.Config:
    """How uvicorn is run: HTTP/1.1 alone, no header that names it, slow clients timed."""
    return uvicorn.Config(
        app, log_level=log_level, backlog=_BACKLOG, timeout_graceful_shutdown=shutdown_s, lifespan="on",
        http=TimedProtocol, ws="none", server_header=False,
    )  # fmt: skip
