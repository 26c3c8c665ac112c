"""One request and its growing text: the link between the token loop and the text layer."""

from __future__ import annotations

from ovround.runtime.decoding.completion import Completion, Piece, Timings, Usage
from ovround.runtime.decoding.generation import Request
from ovround.runtime.decoding.logprobs import TokenLogprobs
from ovround.runtime.text.text_stream import Decodes, TextStream


class Answer:
    """Turns the newest token of `request` into a `Piece`, and ends the request when a stop string appears."""

    def __init__(self, request: Request, tokenizer: Decodes) -> None:
        self.request = request
        self._stream = TextStream(tokenizer, request.options.stop, dict(request.options.shown_tokens))
        self._texts: list[str] = []

    @property
    def has_unread_token(self) -> bool:
        """Whether the request has a token that `advance` has not seen."""
        return len(self._texts) < len(self.request.token_ids)

    def advance(self) -> Piece:
        """The piece of the request's newest token."""
        request = self.request
        index = len(self._texts)
        token = request.token_ids[index]
        text = self._stream.push(token)
        if request.finish_reason is not None:
            text += self._stream.finish()
        if self._stream.stop_string is not None:
            request.finish_reason = "stop"
        self._texts.append(text)
        logprobs = request.logprobs[index] if request.options.logprobs is not None else None
        prompt_logprobs = self._prompt_logprobs() if index == 0 else None
        if request.finish_reason is None:
            return Piece(text, token, logprobs=logprobs, prompt_logprobs=prompt_logprobs)
        return Piece(
            text, token, request.finish_reason, self._usage(), self._timings(), logprobs, prompt_logprobs,
            self._stream.stop_string,
        )  # fmt: skip

    def take_all(self) -> None:
        """Read all tokens of a finished request at once."""
        while self.has_unread_token:
            self._texts.append(self._stream.push(self.request.token_ids[len(self._texts)]))
        self._texts[-1] += self._stream.finish()

    def completion(self) -> Completion:
        """The whole answer of a finished request."""
        request = self.request
        if request.finish_reason is None:
            raise RuntimeError("the request has not ended")
        logprobs = tuple(request.logprobs) if request.options.logprobs is not None else None
        return Completion(
            "".join(self._texts), tuple(request.token_ids), request.finish_reason, self._usage(), self._timings(),
            logprobs, self._prompt_logprobs(),
        )  # fmt: skip

    def _prompt_logprobs(self) -> tuple[TokenLogprobs, ...] | None:
        return tuple(self.request.prompt_logprobs) if self.request.options.prompt_logprobs is not None else None

    def _usage(self) -> Usage:
        request = self.request
        return Usage(
            len(request.prompt_ids), len(request.token_ids), request.cached_tokens, request.drafted_tokens,
            request.accepted_tokens,
        )  # fmt: skip

    def _timings(self) -> Timings:
        request = self.request
        later = len(request.token_ids) - 1
        per_token = (request.last_token_s - request.first_token_s) / later if later else None
        return Timings(request.first_token_s, per_token)
