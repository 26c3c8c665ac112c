"""POST /v1/chat/completions: a chat request becomes a prompt, sampling options and jobs."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from fastapi import Request
from fastapi.responses import Response

from ovround.runtime.server.answer_format import ChatFormat
from ovround.runtime.server.answer_stream import AnswerStream
from ovround.runtime.server.chat_syntax import encode_chat, with_shown_tokens
from ovround.runtime.server.engine_client import EngineClient
from ovround.runtime.server.field_support import check_fields
from ovround.runtime.server.protocol import ChatRequest, NamedTool, Tool
from ovround.runtime.server.tool_calls import forced_call


async def create_chat_completion(engine_client: EngineClient, request: Request, body: ChatRequest) -> Response:
    """The assistant's next message; raises UnsupportedFieldError for what the started engine cannot do."""
    model = engine_client.model
    model.check_name(body.model)
    check_fields(body, engine_client.engine)
    grammar, variables = body.grammar(), body.template_variables
    tools = _callable_tools(body)
    if tools:
        variables["tools"] = [tool.for_template() for tool in body.tools or []]
        if body.tool_choice == "required" or isinstance(body.tool_choice, NamedTool):
            grammar = forced_call([(tool.function.name, tool.function.parameters) for tool in tools])
    messages = model.template_messages(body.messages, variables.get("tools"))
    ids = await asyncio.to_thread(encode_chat, model.tokenizer, messages, variables)
    forced = body.tool_choice == "required" or isinstance(body.tool_choice, NamedTool)
    syntax = engine_client.chat_syntax.answer_syntax(
        model.tokenizer, ids, {tool.function.name: tool.function.parameters for tool in tools},
        forced=forced, constrained=grammar is not None, parallel=body.parallel_tool_calls is not False,
    )  # fmt: skip
    logprobs = (body.top_logprobs or 0) if body.logprobs else None
    options = body.sampling_options(body.max_new_tokens, logprobs, None, grammar)
    options = with_shown_tokens(options, syntax, model.tokenizer)
    head = model.head("chatcmpl", "chat.completion")
    jobs = await engine_client.open_jobs(head.request_id, [ids], options, body.choices)
    return await AnswerStream(engine_client, head, jobs, ChatFormat(model.tokenizer, syntax), prompts=1).response(
        request, body
    )


def _callable_tools(body: ChatRequest) -> Sequence[Tool]:
    """The tools that the answer may call."""
    if not body.tools or body.tool_choice == "none":
        return []
    if isinstance(body.tool_choice, NamedTool):
        return [tool for tool in body.tools if tool.function.name == body.tool_choice.function.name]
    return body.tools
