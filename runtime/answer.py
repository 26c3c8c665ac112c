"""One request with its growing text: where the token loop and the text layer meet."""

from __future__ import annotations

from ovround.runtime.completion import Completion, Piece, Timings, Usage
from ovround.runtime.generation import Request
from ovround.runtime.text_stream import Decodes, TextStream


class Answer:
    """Turns the newest token of `request` into a `Piece`, and ends the request when a stop string appears."""

    def __init__(self, request: Request, tokenizer: Decodes) -> None:
        self.request = request
        self._stream = TextStream(tokenizer, request.options.stop)
        self._texts: list[str] = []

    @property
    def behind(self) -> bool:
        """Whether the request has a token that `advance` has not seen."""
        return len(self._texts) < len(self.request.token_ids)

    def advance(self) -> Piece:
        """The piece of the token that the request has just got."""
        request = self.request
        token = request.token_ids[-1]
        text = self._stream.push(token)
        if request.finish_reason is not None:
            text += self._stream.finish()
        if self._stream.stopped:
            request.finish_reason = "stop"
        self._texts.append(text)
        if request.finish_reason is None:
            return Piece(text, token)
        return Piece(text, token, request.finish_reason, self._usage(), self._timings())

    def completion(self) -> Completion:
        """The whole answer of a finished request."""
        reason = self.request.finish_reason
        if reason is None:
            raise RuntimeError("the request has not ended")
        return Completion("".join(self._texts), tuple(self.request.token_ids), reason, self._usage(), self._timings())

    def _usage(self) -> Usage:
        return Usage(len(self.request.prompt_ids), len(self.request.token_ids))

    def _timings(self) -> Timings:
        request = self.request
        later = len(request.token_ids) - 1
        per_token = (request.last_token_s - request.first_token_s) / later if later else None
        return Timings(request.first_token_s, per_token)
