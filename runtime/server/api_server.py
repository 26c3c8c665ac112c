"""The application: middleware, routes and error handlers around one engine."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, Response
from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware

import ovround
from ovround.errors import OvroundError
from ovround.runtime.server.access_log import AccessLog
from ovround.runtime.server.api_router import ApiRouter
from ovround.runtime.server.engine_client import EngineClient
from ovround.runtime.server.error_response import failure_of
from ovround.runtime.server.failure import Failure
from ovround.runtime.server.metrics import Metrics
from ovround.runtime.server.middleware import RequestGate
from ovround.runtime.server.request_error import describe

_ERROR_RESPONSES: dict[int | str, dict[str, Any]] = {
    400: {"description": "The request cannot be answered, or not by the engine that the server was started with."},
    401: {"description": "The API key is missing or wrong."},
    404: {"description": "No such route, model or request."},
    408: {"description": "The body did not come in time."},
    413: {"description": "The body is too large."},
    429: {"description": "Too many requests wait."},
}


def create_app(engine_client: EngineClient) -> FastAPI:
    """The application of a started engine; it ends the engine when it ends."""

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        yield
        await asyncio.to_thread(engine_client.close)

    app = FastAPI(
        title="ovround", version=ovround.__version__, lifespan=lifespan, docs_url=None, redoc_url=None,
        responses=_ERROR_RESPONSES,
    )  # fmt: skip
    settings = engine_client.settings
    app.add_middleware(RequestGate, api_key=settings.api_key, max_body_bytes=settings.max_body_bytes)
    if settings.allowed_origins:  # added last, so that it answers a browser's questions before the key is asked for
        app.add_middleware(
            CORSMiddleware, allow_origins=settings.allowed_origins, allow_methods=["*"], allow_headers=["*"],
            expose_headers=["X-Request-Id"],
        )  # fmt: skip
    app.add_middleware(AccessLog)
    ApiRouter(engine_client).add_to(app)
    _add_error_handlers(app, engine_client.metrics)
    return app


def _add_error_handlers(app: FastAPI, metrics: Metrics) -> None:
    async def on_ovround_error(request: Request, error: Exception) -> Response:
        failure = failure_of(error).in_words_of(request.url.path)
        metrics.failed(failure.status)
        headers = {"Retry-After": "1"} if failure.status in (429, 503) else None
        return JSONResponse(failure.body(request.url.path), failure.status, headers)

    async def on_invalid_request(request: Request, error: Exception) -> Response:
        assert isinstance(error, RequestValidationError)  # noqa: S101  # for the type checker
        metrics.failed(400)
        message, param = describe(error.errors(), error.body)
        return JSONResponse(Failure(400, message, param=param).body(request.url.path), 400)

    async def on_http_error(request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)  # noqa: S101  # for the type checker
        metrics.failed(error.status_code)
        message = str(error.detail)
        if error.status_code == 404:
            message = f"no route {request.method} {request.url.path[:200]}: GET /openapi.json lists what is served"
        elif error.status_code == 405:
            message = f"{request.url.path[:200]} takes another method than {request.method}"
        failure = Failure(error.status_code, message)
        return JSONResponse(failure.body(request.url.path), error.status_code, error.headers)

    async def on_deep_nesting(request: Request, error: Exception) -> Response:
        metrics.failed(400)
        failure = Failure(400, "the request is nested too deeply")
        return JSONResponse(failure.body(request.url.path), 400)

    app.add_exception_handler(OvroundError, on_ovround_error)
    app.add_exception_handler(RecursionError, on_deep_nesting)
    app.add_exception_handler(RequestValidationError, on_invalid_request)
    app.add_exception_handler(HTTPException, on_http_error)
