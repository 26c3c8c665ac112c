"""POST /v1/completions: prompts become sampling options and jobs."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from fastapi import Request
from fastapi.responses import Response

from ovround.runtime.server.answer_format import CompletionObjects
from ovround.runtime.server.answer_stream import AnswerStream
from ovround.runtime.server.choice_format import CompletionFormat
from ovround.runtime.server.engine_client import EngineClient
from ovround.runtime.server.field_support import check_fields
from ovround.runtime.server.protocol import CompletionRequest
from ovround.runtime.text.tokenizer import Tokenizer


async def create_completion(engine_client: EngineClient, request: Request, body: CompletionRequest) -> Response:
    """The continuation of each prompt; raises FieldError for what the started engine cannot do."""
    model = engine_client.model
    model.check_name(body.model)
    check_fields(body, engine_client.engine)
    prompts = [
        (await asyncio.to_thread(model.tokenizer.encode, prompt)) if isinstance(prompt, str) else prompt
        for prompt in body.prompts
    ]
    max_new_tokens = 1 if body.max_tokens == 0 else body.max_tokens
    prompt_logprobs = body.logprobs if body.echo else None
    options = body.sampling_options(max_new_tokens, body.logprobs, prompt_logprobs, body.grammar())
    head = model.head("cmpl", "text_completion")
    prompt_texts = await asyncio.to_thread(_echoed_texts, body, prompts, model.tokenizer)
    echoes = [text for text in prompt_texts for _ in range(body.choices)]
    jobs = await engine_client.open_jobs(head.request_id, prompts, options, body.choices)
    choices = CompletionFormat(model.tokenizer, jobs, echoes, silent=body.max_tokens == 0)
    objects = CompletionObjects(
        head,
        choices,
        count=len(jobs),
        prompts=len(prompts),
        path=request.url.path,
        wants_usage=body.wants_usage,
        repeatable=engine_client.repeats_seeds if body.is_seeded else None,
    )
    return await AnswerStream(engine_client, head.request_id, jobs, objects).response(request, stream=body.stream)


def _echoed_texts(
    body: CompletionRequest, prompts: Sequence[Sequence[int]], tokenizer: Tokenizer
) -> Sequence[str | None]:
    """The text of each prompt where the request has `echo`, else None."""
    if not body.echo:
        return [None] * len(prompts)
    return [
        prompt if isinstance(prompt, str) else tokenizer.decode(ids)
        for prompt, ids in zip(body.prompts, prompts, strict=True)
    ]
