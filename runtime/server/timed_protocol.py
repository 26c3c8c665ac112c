"""A time limit for a request's line and headers: a connection that exceeds it is closed.

uvicorn itself waits without limit for the end of the headers. `middleware` limits the time for a body.
"""

from __future__ import annotations

import asyncio
from typing import Any

from uvicorn.protocols.http.h11_impl import H11Protocol

from ovround.limits import LIMITS


class TimedProtocol(H11Protocol):
    """uvicorn's HTTP/1.1. The limit counts from the connection, or from the first byte of a later request."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._headers_until: asyncio.TimerHandle | None = None
        self._await_headers()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        if self._is_answering():
            self._stop_waiting()
        elif self._headers_until is None:
            self._await_headers()

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_waiting()
        super().connection_lost(exc)

    def on_response_complete(self) -> None:
        super().on_response_complete()
        if self._is_answering():  # the next request has already arrived
            self._stop_waiting()

    def _is_answering(self) -> bool:
        cycle: Any = self.cycle
        return cycle is not None and not cycle.response_complete

    def _await_headers(self) -> None:
        self._headers_until = self.loop.call_later(LIMITS.request_header_s, self._close_late)

    def _stop_waiting(self) -> None:
        if self._headers_until is not None:
            self._headers_until.cancel()
            self._headers_until = None

    def _close_late(self) -> None:
        self._headers_until = None
        if not self._is_answering() and not self.transport.is_closing():
            self.transport.close()
