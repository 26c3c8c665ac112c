"""Checks before a request is parsed: its API key, and the size of its body."""

from __future__ import annotations

import asyncio
import hmac
import json
from collections.abc import Mapping

from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from ovround.limits import LIMITS
from ovround.runtime.server.failure import Failure

OPEN_PATHS = ("/", "/health", "/ready")


class RequestGate:
    """ASGI middleware: 401 without the right key, 413 for a body above the limit, 408 for a body that does not come."""

    def __init__(self, app: ASGIApp, *, api_key: str | None, max_body_bytes: int) -> None:
        self._app = app
        self._key = api_key.encode() if api_key is not None else None
        self._max_body_bytes = max_body_bytes
        self._too_large = f"the body is larger than {max_body_bytes} bytes"

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = {name.lower(): value for name, value in scope["headers"]}
        if self._key is not None and scope["path"] not in OPEN_PATHS and not self._is_right(_given_key(headers)):
            failure = Failure(401, "the API key is missing or wrong", "authentication_error")
            await _refuse(send, scope["path"], failure)
            return
        stated = headers.get(b"content-length", b"0")
        if not stated.isdigit() or int(stated) > self._max_body_bytes:
            await _refuse(send, scope["path"], Failure(413, self._too_large))
            return
        size, whole = 0, False

        async def counted() -> Message:
            nonlocal size, whole
            try:
                # after a whole body only the disconnect can come, which may take as long as the answer
                message = await asyncio.wait_for(receive(), None if whole else LIMITS.request_body_s)
            except (TimeoutError, asyncio.TimeoutError):  # the same class from Python 3.11 on
                raise HTTPException(408, "the body did not come in time") from None
            whole = whole or not message.get("more_body", False)
            size += len(message.get("body", b""))
            if size > self._max_body_bytes:
                raise HTTPException(413, self._too_large)  # the application's handler answers it
            return message

        await self._app(scope, counted, send)

    def _is_right(self, given: bytes) -> bool:
        return self._key is not None and hmac.compare_digest(given, self._key)


def _given_key(headers: Mapping[bytes, bytes]) -> bytes:
    """The key as OpenAI's clients send it, or as Anthropic's do."""
    scheme, _, given = headers.get(b"authorization", b"").partition(b" ")
    return given.strip() if scheme.lower() == b"bearer" else headers.get(b"x-api-key", b"").strip()


async def _refuse(send: Send, path: str, failure: Failure) -> None:
    body = json.dumps(failure.body(path)).encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    if failure.status == 401:
        headers.append((b"www-authenticate", b"Bearer"))
    await send({"type": "http.response.start", "status": failure.status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
