"""The routes: OpenAI's completions and models, and what operating a server needs."""

from __future__ import annotations

import asyncio
import hashlib
import json
import secrets
import time
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import aclosing, asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import FileResponse, JSONResponse, Response
from sse_starlette.sse import EventSourceResponse
from starlette.exceptions import HTTPException

import ovround
from ovround.artifact.manifest import MANIFEST, read_manifest
from ovround.errors import OvroundError
from ovround.runtime.decoding.completion import Piece
from ovround.runtime.decoding.sampling import SamplingOptions
from ovround.runtime.server import responses
from ovround.runtime.server.dispatch import Dispatcher, RequestCancelledError
from ovround.runtime.server.failures import UnknownModelError, failure
from ovround.runtime.server.job import Job
from ovround.runtime.server.limits import Gate
from ovround.runtime.server.metrics import CONTENT_TYPE
from ovround.runtime.server.responses import Collected, Head, Json, error_object
from ovround.runtime.server.schema import (
    ChatRequest,
    CompletionRequest,
    DetokenizeRequest,
    NamedTool,
    Sampling,
    TemplateRequest,
    TokenizeRequest,
)
from ovround.runtime.server.shapes import ChatShape, CompletionShape, Shape
from ovround.runtime.server.tool_calls import forced_call

PAGE = Path(__file__).parent / "chat.html"
_PING_S = 15
_LOOK_S = 0.25  # between looks whether the client of an answer that is not streamed is still there
_POLICY = "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; connect-src 'self'; img-src data:"
_NOT_HERE = ("/v1/embeddings", "/v1/rerank", "/v1/score", "/v1/responses", "/v1/messages")
_REFUSALS: dict[int | str, dict[str, Any]] = {
    400: {"description": "The request cannot be answered."},
    401: {"description": "The API key is missing or wrong."},
    404: {"description": "No such model or request."},
    408: {"description": "The body did not come in time."},
    413: {"description": "The body is too large."},
    429: {"description": "Too many requests wait."},
}


def create_app(dispatcher: Dispatcher) -> FastAPI:
    """The application around one loaded model, which it closes when it ends."""

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        yield
        await asyncio.to_thread(dispatcher.close)

    app = FastAPI(
        title="ovround",
        version=ovround.__version__,
        lifespan=lifespan,
        docs_url=None,
        redoc_url=None,
        responses=_REFUSALS,
    )
    settings = dispatcher.settings
    app.add_middleware(Gate, api_key=settings.api_key, max_body_bytes=settings.max_body_bytes)
    _Routes(dispatcher).add_to(app)

    async def failed(request: Request, error: Exception) -> Response:
        status, body = failure(error)
        dispatcher.metrics.failed(status)
        return JSONResponse(body, status, {"Retry-After": "1"} if status in (429, 503) else None)

    async def invalid(request: Request, error: Exception) -> Response:
        assert isinstance(error, RequestValidationError)  # noqa: S101  # for the type checker
        dispatcher.metrics.failed(400)
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"] if part != "body")
        return JSONResponse(
            error_object(
                f"{place}: {first['msg']}" if place else first["msg"], "invalid_request_error", None, place or None
            ),
            400,
        )

    async def refused(request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)  # noqa: S101  # for the type checker
        return JSONResponse(error_object(str(error.detail), "invalid_request_error"), error.status_code, error.headers)

    async def too_deep(request: Request, error: Exception) -> Response:
        dispatcher.metrics.failed(400)
        return JSONResponse(error_object("the request is nested too deeply", "invalid_request_error"), 400)

    app.add_exception_handler(OvroundError, failed)
    app.add_exception_handler(RecursionError, too_deep)
    app.add_exception_handler(RequestValidationError, invalid)
    app.add_exception_handler(HTTPException, refused)
    return app


class _Routes:
    """The handlers, around one dispatcher."""

    def __init__(self, dispatcher: Dispatcher) -> None:
        self._dispatcher = dispatcher
        self._tokenizer = dispatcher.tokenizer
        self._name = dispatcher.settings.model_name
        self._fingerprint = fingerprint(dispatcher.folder)
        self._created = int(time.time())

    def add_to(self, app: FastAPI) -> None:
        app.post("/v1/chat/completions")(self.chat)
        app.post("/v1/completions")(self.complete)
        app.get("/v1/models")(self.models)
        app.get("/v1/models/{name:path}")(self.model)
        app.post("/v1/requests/{request_id}/cancel")(self.cancel)
        app.post("/tokenize")(self.tokenize)
        app.post("/detokenize")(self.detokenize)
        app.post("/apply-template")(self.apply_template)
        app.get("/health")(self.health)
        app.get("/ready")(self.ready)
        app.get("/version")(self.version)
        app.get("/metrics")(self.metrics)
        app.get("/", include_in_schema=False)(self.page)
        for path in _NOT_HERE:
            app.post(path, include_in_schema=False)(self.not_here)

    async def chat(self, request: Request, body: ChatRequest) -> Response:
        """The assistant's next message."""
        self._check_name(body.model)
        grammar, variables = body.grammar(), dict(body.chat_template_kwargs or {})
        names: list[str] = []
        if body.tools and body.tool_choice != "none":
            chosen = body.tool_choice.function.name if isinstance(body.tool_choice, NamedTool) else None
            tools = [tool for tool in body.tools if chosen in (None, tool.function.name)]
            names = [tool.function.name for tool in tools]
            variables["tools"] = [tool.model_dump(exclude_none=True) for tool in body.tools]
            if chosen is not None or body.tool_choice == "required":
                grammar = forced_call([(tool.function.name, tool.function.parameters) for tool in tools])
        messages = [message.for_template() for message in body.messages]
        ids = await asyncio.to_thread(self._tokenizer.encode_chat, messages, variables=variables)
        options = body.sampling_options(
            body.max_new_tokens, (body.top_logprobs or 0) if body.logprobs else None, None, grammar
        )
        head = self._head("chatcmpl", "chat.completion")
        jobs = await self._open(head.request_id, [ids], options, body.choices)
        return await self._respond(request, head, jobs, ChatShape(self._tokenizer, names), body, 1)

    async def complete(self, request: Request, body: CompletionRequest) -> Response:
        """The continuation of each prompt."""
        self._check_name(body.model)
        prompts = [
            (await asyncio.to_thread(self._tokenizer.encode, prompt)) if isinstance(prompt, str) else prompt
            for prompt in body.prompts
        ]
        scored = body.logprobs if body.echo else None
        new = 1 if body.max_tokens == 0 else body.max_tokens
        options = body.sampling_options(new, body.logprobs, scored, body.grammar())
        head = self._head("cmpl", "text_completion")
        echoed = await asyncio.to_thread(lambda: [self._echo(body, place, prompts) for place in range(len(prompts))])
        echoes = [echo for echo in echoed for _ in range(body.choices)]
        jobs = await self._open(head.request_id, prompts, options, body.choices)
        shape = CompletionShape(self._tokenizer, jobs, echoes, silent=body.max_tokens == 0)
        return await self._respond(request, head, jobs, shape, body, len(prompts))

    async def models(self) -> Json:
        """The one model that is served."""
        return {"object": "list", "data": [self._model()]}

    async def model(self, name: str) -> Json:
        """The same, by its name."""
        if name != self._name:
            raise UnknownModelError(f"the model `{name}` is not served here; `{self._name}` is")
        return self._model()

    async def cancel(self, request_id: str) -> Json:
        """End a request that is on its way, by the id of its answer."""
        if not self._dispatcher.cancel(request_id):
            raise UnknownModelError(f"no request `{request_id}` is on its way")
        return {"id": request_id, "cancelled": True}

    async def tokenize(self, body: TokenizeRequest) -> Json:
        """Token ids of a text or a chat."""
        self._check_name(body.model)
        if body.messages is not None:
            messages = [message.for_template() for message in body.messages]
            ids = await asyncio.to_thread(
                self._tokenizer.encode_chat, messages, add_generation_prompt=body.add_generation_prompt
            )
        else:
            ids = await asyncio.to_thread(
                self._tokenizer.encode, body.prompt or "", add_special_tokens=body.add_special_tokens
            )
        return {"tokens": ids, "count": len(ids), "max_model_len": self._dispatcher.context_length}

    async def detokenize(self, body: DetokenizeRequest) -> Json:
        """The text of token ids."""
        self._check_name(body.model)
        text = await asyncio.to_thread(self._tokenizer.decode, body.tokens, skip_special_tokens=False)
        return {"prompt": text}

    async def apply_template(self, body: TemplateRequest) -> Json:
        """The prompt that the chat template makes of messages."""
        self._check_name(body.model)
        messages = [message.for_template() for message in body.messages]
        prompt = await asyncio.to_thread(
            self._tokenizer.render_chat, messages, add_generation_prompt=body.add_generation_prompt,
            variables=body.chat_template_kwargs,
        )  # fmt: skip
        return {"prompt": prompt}

    async def health(self) -> Json:
        """200 as long as the process answers."""
        return {"status": "ok"}

    async def ready(self) -> Response:
        """200 when requests are answered, 503 while the engine is started again or does not answer."""
        why = self._dispatcher.unready()
        status = {"status": "ready"} if why is None else {"status": "unready", "reason": why}
        return JSONResponse({**status, "model": self._name}, 200 if why is None else 503)

    async def version(self) -> Json:
        return {"version": ovround.__version__}

    async def metrics(self) -> Response:
        """Prometheus' text format."""
        return Response(self._dispatcher.metrics.text(), media_type=CONTENT_TYPE)

    async def page(self) -> Response:
        return FileResponse(PAGE, media_type="text/html; charset=utf-8", headers={"Content-Security-Policy": _POLICY})

    async def not_here(self) -> Response:
        return JSONResponse(
            error_object("ovround serves completions and chat completions only", "not_implemented"), 501
        )

    def _model(self) -> Json:
        return {
            "id": self._name, "object": "model", "created": self._created, "owned_by": "ovround",
            "max_model_len": self._dispatcher.context_length,
            "meta": {"bits": self._dispatcher.model_bits, "n_ctx": self._dispatcher.context_length},
        }  # fmt: skip

    def _head(self, prefix: str, kind: str) -> Head:
        return Head(f"{prefix}-{secrets.token_hex(12)}", kind, self._name, self._fingerprint)

    def _check_name(self, name: str | None) -> None:
        if name not in (None, self._name):
            raise UnknownModelError(f"the model `{name}` is not served here; `{self._name}` is")

    def _echo(self, body: CompletionRequest, place: int, prompts: Sequence[Sequence[int]]) -> str | None:
        if not body.echo:
            return None
        prompt = body.prompts[place]
        return prompt if isinstance(prompt, str) else self._tokenizer.decode(prompts[place])

    async def _open(
        self, request_id: str, prompts: Sequence[Sequence[int]], options: SamplingOptions, choices: int
    ) -> list[Job]:
        for prompt in prompts:
            self._dispatcher.check(prompt, options)
        each = [
            options if options.seed is None else replace(options, seed=(options.seed + place) % 2**64)
            for place in range(choices)
        ]
        return await self._dispatcher.open_jobs(
            request_id, [prompt for prompt in prompts for _ in each], [one for _ in prompts for one in each]
        )

    async def _collect(self, request: Request, request_id: str, jobs: Sequence[Job]) -> list[Collected]:
        """All answers; raises RequestCancelledError when the client goes away, which nobody hears."""
        answers = [Collected() for _ in jobs]

        async def read(job: Job, answer: Collected) -> None:
            async with aclosing(self._dispatcher.pieces(job)) as pieces:
                async for piece in pieces:
                    answer.take(piece)

        tasks = [asyncio.ensure_future(read(*pair)) for pair in zip(jobs, answers, strict=True)]
        left: set[asyncio.Future[None]] = set(tasks)
        try:
            while left:
                done, left = await asyncio.wait(left, timeout=_LOOK_S, return_when=asyncio.FIRST_EXCEPTION)
                for task in done:
                    task.result()
                if left and await request.is_disconnected():
                    raise RequestCancelledError("the client is gone")
        finally:
            for task in tasks:
                task.cancel()
            self._dispatcher.close_jobs(request_id)
        return answers

    async def _respond(
        self, request: Request, head: Head, jobs: Sequence[Job], shape: Shape, body: Sampling, prompts: int
    ) -> Response:
        if body.stream:
            return await self._events(head, jobs, shape, body, prompts)
        answers = await self._collect(request, head.request_id, jobs)
        ends = [answer.last for answer in answers if answer.last is not None]
        choices = [shape.whole(index, answer) for index, answer in enumerate(answers)]
        more = {"usage": responses.usage(ends, prompts), "timings": responses.timings(ends[0])}
        return JSONResponse(head.object(choices, **more))

    async def _events(self, head: Head, jobs: Sequence[Job], shape: Shape, body: Sampling, prompts: int) -> Response:
        head = replace(head, kind=shape.stream_kind)
        merged = self._merged(head.request_id, jobs)
        try:
            first = await anext(merged)  # an error before the first token is a status, not an event
        except BaseException:
            await merged.aclose()
            raise
        wants_usage = body.stream_options is not None and body.stream_options.include_usage

        async def events() -> AsyncIterator[str]:
            ends: dict[int, Piece] = {}
            async with aclosing(merged):
                try:
                    for choice in shape.opening(len(jobs)):
                        yield json.dumps(head.object([choice]))
                    index, piece = first
                    while True:
                        for choice in shape.chunks(index, piece):
                            more = {"timings": responses.timings(piece)} if choice["finish_reason"] is not None else {}
                            yield json.dumps(head.object([choice], **more))
                        if piece.finish_reason is not None:
                            ends[index] = piece
                        index, piece = await anext(merged)
                except StopAsyncIteration:
                    pass
                except OvroundError as error:
                    status, failed = failure(error)
                    self._dispatcher.metrics.failed(status)
                    yield json.dumps(failed)
                    return
                if wants_usage:
                    ordered = [ends[place] for place in sorted(ends)]
                    yield json.dumps(head.object([], usage=responses.usage(ordered, prompts)))
                yield "[DONE]"

        return EventSourceResponse(
            events(), ping=_PING_S, send_timeout=self._dispatcher.settings.send_timeout_s, sep="\n",
            headers={"X-Request-Id": head.request_id},
        )  # fmt: skip

    async def _merged(self, request_id: str, jobs: Sequence[Job]) -> AsyncGenerator[tuple[int, Piece], None]:
        """The pieces of all jobs as they come, each with its job's place."""
        if len(jobs) == 1:
            try:
                async with aclosing(self._dispatcher.pieces(jobs[0])) as pieces:
                    async for piece in pieces:
                        yield 0, piece
            finally:
                self._dispatcher.close_jobs(request_id)
            return
        news: asyncio.Queue[tuple[int, Piece] | Exception | None] = asyncio.Queue()

        async def read(index: int, job: Job) -> None:
            try:
                async with aclosing(self._dispatcher.pieces(job)) as pieces:
                    async for piece in pieces:
                        news.put_nowait((index, piece))
                news.put_nowait(None)
            except Exception as error:  # noqa: BLE001  # handed on to whoever reads
                news.put_nowait(error)

        tasks = [asyncio.ensure_future(read(index, job)) for index, job in enumerate(jobs)]
        left = len(tasks)
        try:
            while left:
                found = await news.get()
                if isinstance(found, Exception):
                    raise found
                if found is None:
                    left -= 1
                else:
                    yield found
        finally:
            for task in tasks:
                task.cancel()
            self._dispatcher.close_jobs(request_id)


def fingerprint(folder: Path) -> str:
    """Of the weights and the runtime: answers of equal fingerprints are comparable."""
    digest = hashlib.sha256(ovround.__version__.encode())
    if (folder / MANIFEST).is_file():
        for name, file in sorted(read_manifest(folder).files.items()):
            digest.update(f"{name} {file.sha256}\n".encode())
    else:
        for path in sorted(folder.glob("*")):
            digest.update(f"{path.name} {path.stat().st_size}\n".encode())
    return f"fp_{digest.hexdigest()[:16]}"
