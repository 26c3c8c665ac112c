"""The answers of one request, collected into one response or sent as server-sent events."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import aclosing

from fastapi import Request
from fastapi.responses import JSONResponse, Response
from sse_starlette.sse import EventSourceResponse

from ovround.errors import OvroundError
from ovround.runtime.decoding.completion import Piece
from ovround.runtime.server.access_log import note_answer
from ovround.runtime.server.answer_format import AnswerFormat, Event
from ovround.runtime.server.engine_client import EngineClient, RequestCancelledError
from ovround.runtime.server.error_response import failure_of
from ovround.runtime.server.job import Job
from ovround.runtime.server.responses import CollectedAnswer

_PING_S = 15
_DISCONNECT_CHECK_S = 0.25  # between checks for a client that has left an answer that is not streamed


class AnswerStream:
    """The jobs of one request, in the form that its route has."""

    def __init__(
        self, engine_client: EngineClient, request_id: str, jobs: Sequence[Job], answer_format: AnswerFormat
    ) -> None:
        self._engine_client, self._request_id, self._jobs = engine_client, request_id, jobs
        self._format = answer_format

    async def response(self, request: Request, *, stream: bool) -> Response:
        """One JSON object, or events."""
        if stream:
            return await self._event_response(request)
        answers = await self._collect(request)
        note_answer(request, self._request_id, [answer.last for answer in answers if answer.last is not None])
        return JSONResponse(self._format.whole(answers), headers={"X-Request-Id": self._request_id})

    async def _collect(self, request: Request) -> list[CollectedAnswer]:
        """All answers; raises RequestCancelledError when the client has left."""
        answers = [CollectedAnswer() for _ in self._jobs]

        async def read(job: Job, answer: CollectedAnswer) -> None:
            async with aclosing(self._engine_client.pieces(job)) as pieces:
                async for piece in pieces:
                    answer.take(piece)

        tasks = [asyncio.ensure_future(read(*pair)) for pair in zip(self._jobs, answers, strict=True)]
        left: set[asyncio.Future[None]] = set(tasks)
        try:
            while left:
                done, left = await asyncio.wait(left, timeout=_DISCONNECT_CHECK_S, return_when=asyncio.FIRST_EXCEPTION)
                for task in done:
                    task.result()
                if left and await request.is_disconnected():
                    raise RequestCancelledError("the client has left")
        finally:
            for task in tasks:
                task.cancel()
            self._engine_client.close_jobs(self._request_id)
        return answers

    async def _event_response(self, request: Request) -> Response:
        """An error before the first token becomes a status; a later one becomes an event."""
        note_answer(request, self._request_id, [])
        pieces = self._pieces()
        try:
            first = await anext(pieces)
        except BaseException:
            await pieces.aclose()
            raise
        return EventSourceResponse(
            self._events(request, first, pieces), ping=_PING_S, sep="\n",
            send_timeout=self._engine_client.settings.send_timeout_s, headers={"X-Request-Id": self._request_id},
        )  # fmt: skip

    async def _events(
        self, request: Request, first: tuple[int, Piece], pieces: AsyncGenerator[tuple[int, Piece], None]
    ) -> AsyncIterator[Event]:
        ends: dict[int, Piece] = {}
        async with aclosing(pieces):
            try:
                for event in self._format.opening():
                    yield event
                index, piece = first
                while True:
                    for event in self._format.events(index, piece):
                        yield event
                    if piece.finish_reason is not None:
                        ends[index] = piece
                        note_answer(request, self._request_id, list(ends.values()))
                    index, piece = await anext(pieces)
            except StopAsyncIteration:
                pass
            except OvroundError as error:
                failure = failure_of(error).in_words_of(request.url.path)
                self._engine_client.metrics.failed(failure.status)
                for event in self._format.failure(failure):
                    yield event
                return
            for event in self._format.closing([ends[index] for index in sorted(ends)]):
                yield event

    async def _pieces(self) -> AsyncGenerator[tuple[int, Piece], None]:
        """The pieces of all jobs in order of arrival, each with its job's index."""
        if len(self._jobs) == 1:
            try:
                async with aclosing(self._engine_client.pieces(self._jobs[0])) as pieces:
                    async for piece in pieces:
                        yield 0, piece
            finally:
                self._engine_client.close_jobs(self._request_id)
            return
        arrivals: asyncio.Queue[tuple[int, Piece] | Exception | None] = asyncio.Queue()

        async def read(index: int, job: Job) -> None:
            try:
                async with aclosing(self._engine_client.pieces(job)) as pieces:
                    async for piece in pieces:
                        arrivals.put_nowait((index, piece))
                arrivals.put_nowait(None)
            except Exception as error:  # noqa: BLE001  # raised again in the reader of the queue
                arrivals.put_nowait(error)

        tasks = [asyncio.ensure_future(read(index, job)) for index, job in enumerate(self._jobs)]
        left = len(tasks)
        try:
            while left:
                arrival = await arrivals.get()
                if isinstance(arrival, Exception):
                    raise arrival
                if arrival is None:
                    left -= 1
                else:
                    yield arrival
        finally:
            for task in tasks:
                task.cancel()
            self._engine_client.close_jobs(self._request_id)
