"""OpenAI's response objects from completions and pieces; `timings` has llama.cpp's names."""

from __future__ import annotations

import secrets
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from ovround.runtime.decoding.completion import Piece, Timings, Usage
from ovround.runtime.decoding.logprobs import TokenLogprobs
from ovround.runtime.text.tokenizer import Tokenizer
from ovround.runtime.text.tool_formats.answer_parser import ParsedCall

Json = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Head:
    """The common fields of all objects of one answer."""

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
class CollectedAnswer:
    """One answer, joined from its pieces."""

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
    """Token counts from the last pieces of a request's answers, ordered by prompt."""
    used = [piece.usage or Usage(0, 0) for piece in ends]
    per_prompt = used[:: max(len(used) // max(prompts, 1), 1)]  # a prompt with n choices counts once
    prompt = sum(entry.prompt_tokens for entry in per_prompt)
    generated = sum(entry.completion_tokens for entry in used)
    return {
        "prompt_tokens": prompt,
        "completion_tokens": generated,
        "total_tokens": prompt + generated,
        "prompt_tokens_details": {"cached_tokens": sum(entry.cached_tokens for entry in per_prompt)},
    }


def timings(piece: Piece) -> Json:
    """Timings from an answer's last piece."""
    used, times = piece.usage or Usage(0, 0), piece.timings or Timings(0.0, None)
    prompt_s, later = times.time_to_first_token_s, max(used.completion_tokens - 1, 0)
    predicted_s = (times.time_per_output_token_s or 0.0) * later
    computed = used.prompt_tokens - used.cached_tokens
    fields: Json = {"cache_n": used.cached_tokens}
    for name, count, elapsed_s in (("prompt", computed, prompt_s), ("predicted", used.completion_tokens, predicted_s)):
        fields |= {
            f"{name}_n": count,
            f"{name}_ms": elapsed_s * 1e3,
            f"{name}_per_token_ms": elapsed_s * 1e3 / count if count else 0.0,
            f"{name}_per_second": count / elapsed_s if elapsed_s else 0.0,
        }
    if used.drafted_tokens:
        fields |= {"draft_n": used.drafted_tokens, "draft_n_accepted": used.accepted_tokens}
    return fields


def tool_calls(calls: Sequence[ParsedCall]) -> list[Json]:
    """A message's `tool_calls`, with new ids."""
    return [begun_call(call.name, call.arguments) for call in calls]


def begun_call(name: str, arguments: str = "") -> Json:
    """A call with a new id; a stream appends to its arguments."""
    function = {"name": name, "arguments": arguments}
    return {"id": f"call_{secrets.token_hex(12)}", "type": "function", "function": function}


def chat_logprobs(answer: Sequence[TokenLogprobs], tokenizer: Tokenizer) -> Json:
    """`logprobs` of a choice of chat completions."""
    content = [
        {
            **_entry(token.token_id, token.logprob, tokenizer),
            "top_logprobs": [_entry(*pair, tokenizer) for pair in token.top],
        }
        for token in answer
    ]
    return {"content": content, "refusal": None}


def _entry(token_id: int, logprob: float, tokenizer: Tokenizer) -> Json:
    text = tokenizer.token_text(token_id)
    return {"token": text, "logprob": _finite(logprob), "bytes": list(text.encode())}


def completion_logprobs(
    prompt_ids: Sequence[int], prompt: Sequence[TokenLogprobs] | None, answer: Sequence[TokenLogprobs],
    tokenizer: Tokenizer, offset: int = 0,
) -> Json:  # fmt: skip
    """`logprobs` of a choice of completions, with the prompt's where `prompt` is given; its first token has none."""
    tokens, values, tops, offsets = [], [], [], []
    entries: list[tuple[int, TokenLogprobs | None]] = []
    if prompt is not None:
        entries.append((prompt_ids[0], None))
        entries += [(token.token_id, token) for token in prompt]
    entries += [(token.token_id, token) for token in answer]
    for token_id, scored in entries:
        text = tokenizer.token_text(token_id)
        tokens.append(text)
        values.append(None if scored is None else _finite(scored.logprob))
        tops.append(None if scored is None else _top(scored, tokenizer))
        offsets.append(offset)
        offset += len(text)
    return {"tokens": tokens, "token_logprobs": values, "top_logprobs": tops, "text_offset": offsets}


def _top(token: TokenLogprobs, tokenizer: Tokenizer) -> dict[str, float]:
    """The likeliest tokens by text; if two tokens have one text, the likelier one counts."""
    by_text: dict[str, float] = {}
    for token_id, value in token.top:
        by_text.setdefault(tokenizer.token_text(token_id), _finite(value))
    return by_text


def _finite(value: float) -> float:
    return max(value, -9999.0)  # JSON has no infinity; the value is vLLM's
