"""The routes: OpenAI's and Anthropic's APIs, tokenization, and those for operating a server."""

from __future__ import annotations

import asyncio

from fastapi import FastAPI, Request
from fastapi.responses import HTMLResponse, JSONResponse, Response

import ovround
from ovround.runtime.server.chat_page import PAGE, policy
from ovround.runtime.server.engine_client import EngineClient
from ovround.runtime.server.messages_api.serving import MessagesRoutes
from ovround.runtime.server.metrics import CONTENT_TYPE
from ovround.runtime.server.protocol import (
    ChatRequest,
    CompletionRequest,
    DetokenizeRequest,
    TemplateRequest,
    TokenizeRequest,
)
from ovround.runtime.server.responses import Json
from ovround.runtime.server.responses_api.serving import ResponsesRoutes
from ovround.runtime.server.served_model import UnknownModelError
from ovround.runtime.server.serving_chat import create_chat_completion
from ovround.runtime.server.serving_completion import create_completion
from ovround.runtime.server.unknown_fields import UnknownFields


class ApiRouter:
    """The route handlers of one engine."""

    def __init__(self, engine_client: EngineClient) -> None:
        self._engine_client = engine_client
        self._model = engine_client.model
        self._page = PAGE.read_text(encoding="utf-8")
        self._unknown_fields = UnknownFields(strict=engine_client.settings.strict)
        self._responses = ResponsesRoutes(engine_client, self._unknown_fields)
        self._messages = MessagesRoutes(engine_client, self._unknown_fields)

    def add_to(self, app: FastAPI) -> None:
        app.post("/v1/chat/completions")(self.chat)
        app.post("/v1/completions")(self.complete)
        app.post("/v1/responses")(self._responses.create)
        app.get("/v1/responses/{response_id}")(self._responses.get)
        app.delete("/v1/responses/{response_id}")(self._responses.delete)
        app.post("/v1/messages")(self._messages.create)
        app.post("/v1/messages/count_tokens")(self._messages.count)
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

    async def chat(self, request: Request, body: ChatRequest) -> Response:
        """The assistant's next message."""
        self._unknown_fields.check(body)
        return await create_chat_completion(self._engine_client, request, body)

    async def complete(self, request: Request, body: CompletionRequest) -> Response:
        """The continuation of each prompt."""
        self._unknown_fields.check(body)
        return await create_completion(self._engine_client, request, body)

    async def models(self) -> Json:
        """A list of the one model that is served."""
        return {"object": "list", "data": [self._model_object()]}

    async def model(self, name: str) -> Json:
        """The model by its name."""
        self._model.check_name(name)
        return self._model_object()

    async def cancel(self, request_id: str) -> Json:
        """End a running request by the id of its answer."""
        if not self._engine_client.cancel(request_id):
            raise UnknownModelError(f"no request `{request_id}` is running")
        return {"id": request_id, "cancelled": True}

    async def tokenize(self, body: TokenizeRequest) -> Json:
        """Token ids of a text or a chat."""
        self._unknown_fields.check(body)
        self._model.check_name(body.model)
        tokenizer = self._model.tokenizer
        if body.messages is not None:
            messages = self._model.template_messages(body.messages)
            ids = await asyncio.to_thread(
                tokenizer.encode_chat, messages, add_generation_prompt=body.add_generation_prompt
            )
        else:
            ids = await asyncio.to_thread(
                tokenizer.encode, body.prompt or "", add_special_tokens=body.add_special_tokens
            )
        return {"tokens": ids, "count": len(ids), "max_model_len": self._model.context_length}

    async def detokenize(self, body: DetokenizeRequest) -> Json:
        """The text of token ids."""
        self._unknown_fields.check(body)
        self._model.check_name(body.model)
        text = await asyncio.to_thread(self._model.tokenizer.decode, body.tokens, skip_special_tokens=False)
        return {"prompt": text}

    async def apply_template(self, body: TemplateRequest) -> Json:
        """The prompt that the chat template gives for the messages."""
        self._unknown_fields.check(body)
        self._model.check_name(body.model)
        messages = self._model.template_messages(body.messages)
        prompt = await asyncio.to_thread(
            self._model.tokenizer.render_chat, messages, add_generation_prompt=body.add_generation_prompt,
            variables=body.chat_template_kwargs,
        )  # fmt: skip
        return {"prompt": prompt}

    async def health(self) -> Json:
        """200 as long as the server's process answers; `engine` is the engine that it was started with."""
        client = self._engine_client
        return {"status": "ok", "engine": client.engine, "kernel": client.kernel}

    async def ready(self) -> Response:
        """200 while the engine answers, 503 while it is started again or silent."""
        reason = self._engine_client.unready()
        status = {"status": "ready"} if reason is None else {"status": "unready", "reason": reason}
        return JSONResponse({**status, "model": self._model.name}, 200 if reason is None else 503)

    async def version(self) -> Json:
        """The version of ovround."""
        return {"version": ovround.__version__}

    async def metrics(self) -> Response:
        """Metrics in Prometheus' text format."""
        return Response(self._engine_client.metrics.text(), media_type=CONTENT_TYPE)

    async def page(self) -> Response:
        """The chat page."""
        return HTMLResponse(self._page, headers={"Content-Security-Policy": policy(self._page)})

    def _model_object(self) -> Json:
        model = self._model
        return {
            "id": model.name, "object": "model", "created": model.created, "owned_by": "ovround",
            "max_model_len": model.context_length, "context_length": model.context_length,
            "architecture": {"input_modalities": ["text"], "output_modalities": ["text"]},
            "meta": {"bits": model.bits, "n_ctx": model.context_length, "engine": self._engine_client.engine,
                     "kernel": self._engine_client.kernel},
        }  # fmt: skip
