"""One log line for each request that is more than a look at the server's state: the logger `ovround.access`, level INFO."""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence

from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from ovround.runtime.decoding.completion import Piece

_LOG = logging.getLogger("ovround.access")
_UNLOGGED = ("/health", "/ready", "/metrics", "/version")
_STATE = "answer"


class AccessLog:
    """ASGI middleware: method, path, status and time of a request; of an answer also its id, first token and tokens."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["path"] in _UNLOGGED or not _LOG.isEnabledFor(logging.INFO):
            await self._app(scope, receive, send)
            return
        begun_s, status = time.perf_counter(), 0

        async def noted(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self._app(scope, receive, noted)
        finally:
            path = scope.get("raw_path", b"").decode("latin-1")[:200]  # still encoded: a path cannot begin a new line
            answer = scope.get("state", {}).get(_STATE, "")
            elapsed_s = time.perf_counter() - begun_s
            _LOG.info("%s %s %s %.3f s%s", scope["method"], path, status or "no answer", elapsed_s, answer)


def note_answer(request: Request, request_id: str, ends: Sequence[Piece]) -> None:
    """Add an answer to its request's line: its id, its time to first token, and its tokens, from its choices' last pieces."""
    first_s = min((end.timings.time_to_first_token_s for end in ends if end.timings is not None), default=None)
    used = [end.usage for end in ends if end.usage is not None]
    first = "no token" if first_s is None else f"first token {first_s:.3f} s"
    prompt, generated = max((one.prompt_tokens for one in used), default=0), sum(one.completion_tokens for one in used)
    setattr(request.state, _STATE, f", {first}, {prompt} prompt + {generated} new tokens, {request_id}")


def log_to_stderr() -> None:
    """Write the lines to stderr, with their time."""
    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter("%(asctime)s %(message)s"))
    _LOG.setLevel(logging.INFO)
    _LOG.addHandler(handler)
    _LOG.propagate = False
