"""OpenAI's objects, made of completions and pieces; `timings` has llama.cpp's names."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from ovround.runtime.decoding.completion import Piece, Timings, Usage
from ovround.runtime.decoding.logprobs import TokenLogprobs
from ovround.runtime.server.tool_calls import Call
from ovround.runtime.text.tokenizer import Tokenizer

Json = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Head:
    """What every object of one request carries."""

    request_id: str
    kind: str
    model: str
    fingerprint: str
    created: int = field(default_factory=lambda: int(time.time()))

    def object(self, choices: list[Json], **more: Any) -> Json:
        return {
            "id": self.request_id, "object": self.kind, "created": self.created, "model": self.model,
            "system_fingerprint": self.fingerprint, "choices": choices, **more,
        }  # fmt: skip


@dataclass(slots=True)
class Collected:
    """One answer, put together from its pieces."""

    text: str = ""
    logprobs: list[TokenLogprobs] = field(default_factory=list)
    prompt_logprobs: tuple[TokenLogprobs, ...] | None = None
    last: Piece | None = None

    def take(self, piece: Piece) -> None:
        self.text += piece.text
        if piece.logprobs is not None:
            self.logprobs.append(piece.logprobs)
        if piece.prompt_logprobs is not None:
            self.prompt_logprobs = piece.prompt_logprobs
        self.last = piece

    @property
    def finish_reason(self) -> str | None:
        return self.last.finish_reason if self.last is not None else None


def usage(ends: Sequence[Piece], prompts: int) -> Json:
    """Of a request's last pieces, of which every `len(ends) / prompts` share a prompt."""
    used = [piece.usage or Usage(0, 0) for piece in ends]
    own = used[:: max(len(used) // max(prompts, 1), 1)]  # a prompt with n choices counts once
    prompt, generated = sum(one.prompt_tokens for one in own), sum(one.completion_tokens for one in used)
    return {
        "prompt_tokens": prompt,
        "completion_tokens": generated,
        "total_tokens": prompt + generated,
        "prompt_tokens_details": {"cached_tokens": sum(one.cached_tokens for one in own)},
    }


def timings(piece: Piece) -> Json:
    """Of an answer's last piece."""
    used, times = piece.usage or Usage(0, 0), piece.timings or Timings(0.0, None)
    prompt_s, later = times.time_to_first_token_s, max(used.completion_tokens - 1, 0)
    predicted_s = (times.time_per_output_token_s or 0.0) * later
    computed = used.prompt_tokens - used.cached_tokens
    found: Json = {"cache_n": used.cached_tokens}
    for name, count, elapsed_s in (("prompt", computed, prompt_s), ("predicted", used.completion_tokens, predicted_s)):
        found |= {
            f"{name}_n": count,
            f"{name}_ms": elapsed_s * 1e3,
            f"{name}_per_token_ms": elapsed_s * 1e3 / count if count else 0.0,
            f"{name}_per_second": count / elapsed_s if elapsed_s else 0.0,
        }
    if used.drafted_tokens:
        found |= {"draft_n": used.drafted_tokens, "draft_n_accepted": used.accepted_tokens}
    return found


def tool_calls(calls: Sequence[Call]) -> list[Json]:
    stamp = time.time_ns()
    return [
        {
            "id": f"call_{stamp:x}_{place}",
            "type": "function",
            "function": {"name": one.name, "arguments": one.arguments},
        }
        for place, one in enumerate(calls)
    ]


def chat_logprobs(found: Sequence[TokenLogprobs], tokenizer: Tokenizer) -> Json:
    """A choice's `logprobs` of chat completions."""
    content = [
        {**_entry(one.token_id, one.logprob, tokenizer), "top_logprobs": [_entry(*pair, tokenizer) for pair in one.top]}
        for one in found
    ]
    return {"content": content, "refusal": None}


def _entry(token_id: int, logprob: float, tokenizer: Tokenizer) -> Json:
    text = tokenizer.token_text(token_id)
    return {"token": text, "logprob": _finite(logprob), "bytes": list(text.encode())}


def completion_logprobs(
    prompt_ids: Sequence[int], of_prompt: Sequence[TokenLogprobs] | None, found: Sequence[TokenLogprobs],
    tokenizer: Tokenizer, offset: int = 0,
) -> Json:  # fmt: skip
    """A choice's `logprobs` of completions, of the prompt too when `of_prompt` is given; its first token has none."""
    tokens, values, tops, offsets = [], [], [], []
    entries: list[tuple[int, TokenLogprobs | None]] = []
    if of_prompt is not None:
        entries.append((prompt_ids[0], None))
        entries += [(one.token_id, one) for one in of_prompt]
    entries += [(one.token_id, one) for one in found]
    for token_id, one in entries:
        text = tokenizer.token_text(token_id)
        tokens.append(text)
        values.append(None if one is None else _finite(one.logprob))
        tops.append(None if one is None else _top(one, tokenizer))
        offsets.append(offset)
        offset += len(text)
    return {"tokens": tokens, "token_logprobs": values, "top_logprobs": tops, "text_offset": offsets}


def _top(one: TokenLogprobs, tokenizer: Tokenizer) -> dict[str, float]:
    """By text; of two tokens with one text the likelier counts."""
    found: dict[str, float] = {}
    for token_id, value in one.top:
        found.setdefault(tokenizer.token_text(token_id), _finite(value))
    return found


def _finite(value: float) -> float:
    return max(value, -9999.0)  # JSON has no infinity; the value is vLLM's


def error_object(message: str, kind: str, code: str | None = None, param: str | None = None) -> Json:
    return {"error": {"message": message, "type": kind, "param": param, "code": code}}
