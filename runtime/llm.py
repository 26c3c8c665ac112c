"""`LLM`: a folder that `ovround convert` wrote, loaded and ready to answer.

    with LLM("out", device="CPU") as llm:
        print(llm.generate("Once upon a time", max_new_tokens=32).text)
        for piece in llm.stream("The cat", temperature=0.8, seed=7):
            print(piece.text, end="", flush=True)

Text becomes token ids here, goes to the loop of `generation.py`, and comes back through `answer.py`.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, overload

from ovround.errors import GenerationError, UsageError
from ovround.runtime.answer import Answer
from ovround.runtime.chat_template import Message
from ovround.runtime.completion import Completion, Piece
from ovround.runtime.engine import Logits, TokenIds
from ovround.runtime.engines import check_folder, open_engine
from ovround.runtime.generation import admit, run
from ovround.runtime.model_info import read_model_info
from ovround.runtime.sampling import SamplingOptions, override
from ovround.runtime.tokenizer import Tokenizer


class LLM:
    """One model, one KV cache: a request at a time.

    Options are given as a `SamplingOptions`, as keywords (which win), or both. Errors: UsageError for an option out of
    its range, GenerationError for a request that the model cannot answer, such as one longer than its context.

    Threads: `generate`, `chat` and `logits` wait for each other. A stream does not hold the model between its pieces; a
    new request takes the model over, and the older stream's next piece is a GenerationError.
    """

    def __init__(
        self, folder: str | Path, device: str = "CPU", *, exact: bool = False, threads: int | None = None
    ) -> None:
        """Load `folder` on `device`; see `ovround.runtime.engines.open_engine` for the arguments and errors."""
        path = Path(folder)
        check_folder(path)
        self.tokenizer = Tokenizer(path)
        self._end_token_ids = read_model_info(path).end_token_ids
        self._engine = open_engine(path, device, exact=exact, threads=threads)
        self._lock = threading.RLock()
        self._turn = object()

    @property
    def context_length(self) -> int:
        """Most tokens of a prompt and its answer together."""
        return self._engine.context_length

    @property
    def vocab_size(self) -> int:
        """Logits a position; token ids run from 0 to one less."""
        return self._engine.vocab_size

    @property
    def device(self) -> str:
        """Where the model runs, for people."""
        return self._engine.device

    @overload
    def generate(
        self, prompt: str, options: SamplingOptions | None = None, *,
        max_new_tokens: int | None = None, temperature: float | None = None, top_k: int | None = None,
        top_p: float | None = None, min_p: float | None = None, repetition_penalty: float | None = None,
        seed: int | None = None, stop: str | Sequence[str] | None = None,
        stop_token_ids: Sequence[int] | None = None, ignore_eos: bool | None = None, batch_size: int = 8,
    ) -> Completion: ...  # fmt: skip

    @overload
    def generate(
        self, prompt: list[str], options: SamplingOptions | None = None, *,
        max_new_tokens: int | None = None, temperature: float | None = None, top_k: int | None = None,
        top_p: float | None = None, min_p: float | None = None, repetition_penalty: float | None = None,
        seed: int | None = None, stop: str | Sequence[str] | None = None,
        stop_token_ids: Sequence[int] | None = None, ignore_eos: bool | None = None, batch_size: int = 8,
    ) -> list[Completion]: ...  # fmt: skip

    def generate(
        self, prompt: str | list[str], options: SamplingOptions | None = None, *,
        max_new_tokens: int | None = None, temperature: float | None = None, top_k: int | None = None,
        top_p: float | None = None, min_p: float | None = None, repetition_penalty: float | None = None,
        seed: int | None = None, stop: str | Sequence[str] | None = None,
        stop_token_ids: Sequence[int] | None = None, ignore_eos: bool | None = None, batch_size: int = 8,
    ) -> Completion | list[Completion]:  # fmt: skip
        """The answer to a prompt, or a list of answers to a list of prompts, run `batch_size` at a time.

        Each prompt of a list is answered as if it were alone; only rounding may differ (not with `exact`, in practice).
        """
        chosen = override(
            options, max_new_tokens=max_new_tokens, temperature=temperature, top_k=top_k, top_p=top_p, min_p=min_p,
            repetition_penalty=repetition_penalty, seed=seed, stop=stop, stop_token_ids=stop_token_ids,
            ignore_eos=ignore_eos,
        )  # fmt: skip
        if isinstance(prompt, str):
            return self._complete([self._admit(self.tokenizer.encode(prompt), chosen)])[0]
        if not isinstance(prompt, list) or not all(isinstance(text, str) for text in prompt):
            raise UsageError(f"prompt is a {type(prompt).__name__}; a text or a list of texts is needed")
        if not isinstance(batch_size, int) or batch_size < 1:
            raise UsageError(f"batch_size is {batch_size!r}; a whole number of 1 or more is needed")
        answers = [self._admit(self.tokenizer.encode(text), chosen) for text in prompt]
        batches = [answers[start : start + batch_size] for start in range(0, len(answers), batch_size)]
        return [completion for batch in batches for completion in self._complete(batch)]

    def stream(
        self, prompt: str, options: SamplingOptions | None = None, *,
        max_new_tokens: int | None = None, temperature: float | None = None, top_k: int | None = None,
        top_p: float | None = None, min_p: float | None = None, repetition_penalty: float | None = None,
        seed: int | None = None, stop: str | Sequence[str] | None = None,
        stop_token_ids: Sequence[int] | None = None, ignore_eos: bool | None = None,
    ) -> Iterator[Piece]:  # fmt: skip
        """The answer as it grows, a `Piece` a token; leaving the loop cancels the rest. Errors come at the call."""
        chosen = override(
            options, max_new_tokens=max_new_tokens, temperature=temperature, top_k=top_k, top_p=top_p, min_p=min_p,
            repetition_penalty=repetition_penalty, seed=seed, stop=stop, stop_token_ids=stop_token_ids,
            ignore_eos=ignore_eos,
        )  # fmt: skip
        return self._pieces(self._admit(self.tokenizer.encode(prompt), chosen))

    def chat(
        self, messages: Sequence[Message], options: SamplingOptions | None = None, *,
        max_new_tokens: int | None = None, temperature: float | None = None, top_k: int | None = None,
        top_p: float | None = None, min_p: float | None = None, repetition_penalty: float | None = None,
        seed: int | None = None, stop: str | Sequence[str] | None = None,
        stop_token_ids: Sequence[int] | None = None, ignore_eos: bool | None = None,
        template_variables: Mapping[str, Any] | None = None,
    ) -> Completion:  # fmt: skip
        """The assistant's next message after `messages`, by the model's chat template.

        `template_variables` are the template's own, such as `enable_thinking` or `tools`.
        """
        chosen = override(
            options, max_new_tokens=max_new_tokens, temperature=temperature, top_k=top_k, top_p=top_p, min_p=min_p,
            repetition_penalty=repetition_penalty, seed=seed, stop=stop, stop_token_ids=stop_token_ids,
            ignore_eos=ignore_eos,
        )  # fmt: skip
        prompt_ids = self.tokenizer.encode_chat(messages, variables=template_variables)
        return self._complete([self._admit(prompt_ids, chosen)])[0]

    def stream_chat(
        self, messages: Sequence[Message], options: SamplingOptions | None = None, *,
        max_new_tokens: int | None = None, temperature: float | None = None, top_k: int | None = None,
        top_p: float | None = None, min_p: float | None = None, repetition_penalty: float | None = None,
        seed: int | None = None, stop: str | Sequence[str] | None = None,
        stop_token_ids: Sequence[int] | None = None, ignore_eos: bool | None = None,
        template_variables: Mapping[str, Any] | None = None,
    ) -> Iterator[Piece]:  # fmt: skip
        """`chat` as it grows; see `stream`."""
        chosen = override(
            options, max_new_tokens=max_new_tokens, temperature=temperature, top_k=top_k, top_p=top_p, min_p=min_p,
            repetition_penalty=repetition_penalty, seed=seed, stop=stop, stop_token_ids=stop_token_ids,
            ignore_eos=ignore_eos,
        )  # fmt: skip
        prompt_ids = self.tokenizer.encode_chat(messages, variables=template_variables)
        return self._pieces(self._admit(prompt_ids, chosen))

    def logits(self, ids: TokenIds) -> Logits:
        """Logits float32 `[B, T, V]` of every position of the token ids `[B, T]`, for evaluation."""
        if ids.ndim != 2:
            raise UsageError(f"ids have the shape {ids.shape}; [B, T] is needed")
        with self._lock:
            return self._engine.logits(ids)

    def close(self) -> None:
        """Release the model; also at the end of a `with` block."""
        with self._lock:
            self._engine.close()

    def __enter__(self) -> LLM:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _admit(self, prompt_ids: list[int], options: SamplingOptions) -> Answer:
        # A special token has no text in which a stop string could be found: it is looked for by its id.
        special = [self.tokenizer.special_id(text) for text in options.stop]
        ids = (*options.stop_token_ids, *(token for token in special if token is not None))
        request = admit(prompt_ids, override(options, stop_token_ids=ids), self.context_length, self._end_token_ids)
        return Answer(request, self.tokenizer)

    def _complete(self, answers: list[Answer]) -> list[Completion]:
        """Run one batch to its end."""
        with self._lock:
            self._turn = object()
            for _ in run(self._engine, [answer.request for answer in answers]):
                for answer in answers:
                    if answer.behind:
                        answer.advance()
        return [answer.completion() for answer in answers]

    def _pieces(self, answer: Answer) -> Iterator[Piece]:
        turn = object()
        with self._lock:
            self._turn = turn
        steps = run(self._engine, [answer.request])
        while answer.request.finish_reason is None:
            with self._lock:
                if self._turn is not turn:
                    raise GenerationError(
                        "a newer request has taken this model over", hint="finish one stream before the next request"
                    )
                next(steps)
                piece = answer.advance()
            yield piece
