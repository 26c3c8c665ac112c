"""A chat request becomes a prompt, sampling options and jobs, whatever the protocol; POST /v1/chat/completions answers it."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass

from fastapi import Request
from fastapi.responses import Response

from ovround.runtime.server.answer_format import CompletionObjects
from ovround.runtime.server.answer_stream import AnswerStream
from ovround.runtime.server.chat_syntax import encode_chat, with_shown_tokens
from ovround.runtime.server.choice_format import ChatFormat
from ovround.runtime.server.engine_client import EngineClient
from ovround.runtime.server.field_support import check_fields
from ovround.runtime.server.forced_call import forced_call
from ovround.runtime.server.job import Job
from ovround.runtime.server.protocol import ChatRequest
from ovround.runtime.text.tool_formats.answer_parser import AnswerSyntax


@dataclass(frozen=True, slots=True)
class OpenedChat:
    """The answers to a chat that have begun, and how they are read."""

    jobs: Sequence[Job]
    syntax: AnswerSyntax | None
    prompt_tokens: int
    fills_context: bool
    """Whether the limit of tokens is the context's and not the request's."""


async def create_chat_completion(engine_client: EngineClient, request: Request, body: ChatRequest) -> Response:
    """The assistant's next message; raises FieldError for what the started engine cannot do."""
    model = engine_client.model
    head = model.head("chatcmpl", "chat.completion")
    opened = await open_chat(engine_client, head.request_id, body)
    objects = CompletionObjects(
        head, ChatFormat(model.tokenizer, opened.syntax), count=len(opened.jobs), prompts=1, path=request.url.path,
        wants_usage=body.wants_usage, repeatable=engine_client.repeats_seeds if body.is_seeded else None,
    )  # fmt: skip
    return await AnswerStream(engine_client, head.request_id, opened.jobs, objects).response(
        request, stream=body.stream
    )


async def open_chat(
    engine_client: EngineClient, request_id: str, body: ChatRequest, *, fit_context: bool = False
) -> OpenedChat:
    """Begin the answers to a chat; `fit_context` lowers a limit of tokens that exceeds the context.

    Raises FieldError for what the started engine cannot do, and what `open_jobs` raises.
    """
    model = engine_client.model
    model.check_name(body.model)
    check_fields(body, engine_client.engine)
    grammar, tools = body.grammar(), body.callable_tools
    schemas = {tool.function.name: tool.function.parameters for tool in tools}
    if body.forces_a_call:
        grammar = forced_call(schemas, several=body.forces_several)
    ids = await prompt_ids(engine_client, body)
    syntax = engine_client.chat_syntax.answer_syntax(
        model.tokenizer, ids, schemas, forced=body.forces_a_call, constrained=grammar is not None,
        parallel=body.parallel_tool_calls is not False,
    )  # fmt: skip
    limit = body.max_new_tokens
    if fit_context and limit is not None and len(ids) + limit > model.context_length:
        limit = None
    logprobs = (body.top_logprobs or 0) if body.logprobs else None
    options = with_shown_tokens(body.sampling_options(limit, logprobs, None, grammar), syntax, model.tokenizer)
    jobs = await engine_client.open_jobs(request_id, [ids], options, body.choices)
    return OpenedChat(jobs, syntax, len(ids), limit is None)


async def prompt_ids(engine_client: EngineClient, body: ChatRequest) -> list[int]:
    """Token ids of a chat's prompt."""
    model, variables = engine_client.model, body.template_variables
    if body.callable_tools:
        variables["tools"] = [tool.for_template() for tool in body.tools or []]
    messages = model.template_messages(body.messages, variables.get("tools"))
    return await asyncio.to_thread(encode_chat, model.tokenizer, messages, variables)
