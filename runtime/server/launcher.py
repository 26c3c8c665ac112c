"""Starting a server: the engine for a folder, a socket, and uvicorn until a signal comes."""

from __future__ import annotations

import logging
import socket
from pathlib import Path

import uvicorn
from fastapi import FastAPI

from ovround.errors import UsageError
from ovround.runtime.server.access_log import log_to_stderr
from ovround.runtime.server.api_server import create_app
from ovround.runtime.server.engine_choice import EngineChoice, choose_engine
from ovround.runtime.server.engine_client import EngineClient
from ovround.runtime.server.engine_messages import EngineSettings
from ovround.runtime.server.settings import EngineOptions, ServerSettings
from ovround.runtime.server.timed_protocol import TimedProtocol

_BACKLOG = 2048


def open_engine_client(
    folder: Path, settings: ServerSettings, options: EngineOptions | None = None, choice: EngineChoice | None = None
) -> EngineClient:
    """Load the model in `folder` once, in the engine of `choice`, or of `choose_engine` where none is given.

    Raises what `choose_engine` and the engine raise.
    """
    options = options or EngineOptions()
    choice = choice or choose_engine(folder, options)
    engine = EngineSettings(
        str(folder), choice.name == "batching", options.device, exact=options.exact, threads=options.threads,
        slots=settings.max_running, cache_gib=options.cache_gib,
        extension=None if choice.extension is None else str(choice.extension), prompt_lookup=options.prompt_lookup,
        draft_model=None if options.draft_model is None else str(options.draft_model), verify_draft=options.verify,
        kernel=options.kernel,
    )  # fmt: skip
    return EngineClient(settings, engine, verify=options.verify)


def listen(host: str, port: int) -> socket.socket:
    """A socket bound to the address; raises UsageError for an address that is taken or not this machine's."""
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


def serve(engine_client: EngineClient, bound: socket.socket, *, log_level: str = "warning") -> None:
    """Answer on `bound` until SIGINT or SIGTERM; running streams then have five seconds."""
    logging.getLogger("asyncio").setLevel(logging.ERROR)  # it warns of each client that has left
    log_to_stderr()
    uvicorn.Server(server_config(create_app(engine_client), log_level=log_level)).run(sockets=[bound])


def server_config(app: FastAPI, *, log_level: str, shutdown_s: int = 5) -> uvicorn.Config:
    """uvicorn's configuration: HTTP/1.1 alone, no header that names it, time limits for slow clients."""
    return uvicorn.Config(
        app, log_level=log_level, backlog=_BACKLOG, timeout_graceful_shutdown=shutdown_s, lifespan="on",
        http=TimedProtocol, ws="none", server_header=False,
    )  # fmt: skip
