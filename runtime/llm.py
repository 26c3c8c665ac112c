"""`LLM`: a loaded model folder that generates text and chats.

    with LLM("out", device="CPU") as llm:  # or a hub name, which is converted once
        print(llm.generate("Once upon a time", max_new_tokens=32).text)
        for piece in llm.stream("The cat", temperature=0.8, seed=7):
            print(piece.text, end="", flush=True)

This module turns text into token ids; `generation.py` runs the loop, and `answer.py` turns its tokens into text.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, overload

from ovround.errors import GenerationError, UsageError
from ovround.runtime.async_stream import Turns, async_pieces
from ovround.runtime.decoding.answer import Answer
from ovround.runtime.decoding.beam_search import beam_search
from ovround.runtime.decoding.completion import Completion, Piece
from ovround.runtime.decoding.generation import admit, run_batch, run_row
from ovround.runtime.decoding.grammar import GrammarCompiler
from ovround.runtime.decoding.kv_cache_slot import KVCacheSlot
from ovround.runtime.decoding.logprobs import TokenLogprobs
from ovround.runtime.decoding.sampling import SamplingOptions, override
from ovround.runtime.decoding.speculation import DRAFT_TOKENS, DraftModel, PromptLookup, Proposer
from ovround.runtime.engine import Logits, TokenIds, check_ids, check_room
from ovround.runtime.engines import open_engine, verified
from ovround.runtime.model_folder import model_folder
from ovround.runtime.model_info import read_model_info
from ovround.runtime.text.chat_template import Message
from ovround.runtime.text.tokenizer import Tokenizer

if TYPE_CHECKING:
    from typing_extensions import Unpack  # in `typing` from Python 3.11 on

    from ovround.runtime.decoding.sampling import SamplingKeywords


class LLM:
    """One model, one KV cache: a request at a time.

    Options are a `SamplingOptions`, keywords of the same names, or both; keywords have priority. An option out of its
    range raises UsageError. A request that the model cannot answer, such as a prompt longer than the context, raises
    GenerationError.

    `agenerate`, `achat`, `astream` and `astream_chat` are the same for an event loop; they wait for each other.

    Threads: `generate`, `chat` and `logits` wait for each other. A stream does not lock the model between its pieces. A new
    request then takes the model over, and the next piece of the older stream raises GenerationError.
    """

    def __init__(
        self, model: str | Path, device: str = "CPU", *, exact: bool = False, threads: int | None = None,
        prefix_cache: bool = False, prompt_lookup: bool = False, draft_model: str | Path | None = None,
        draft_tokens: int = DRAFT_TOKENS, verify: bool = True, kernel: str = "auto",
    ) -> None:  # fmt: skip
        """Load `model` on `device`; see `ovround.runtime.engines.open_engine` for these arguments and the errors.

        `model`: a folder that `ovround convert` wrote. Any other name of a model (a hub name, a checkpoint folder, a GGUF
        file) is converted once, by rounding, and kept: see `ovround.cached_model`, which also takes a width.
        `prefix_cache`: the common beginning of a prompt and of the last prompt with its answer is not computed again.
        Rounding may then depend on earlier requests (in practice not with `exact`).
        `prompt_lookup`, or `draft_model`, a smaller model with the same tokenizer: speculative decoding with
        up to `draft_tokens` proposed tokens per step. It changes only the speed; lists are then answered one by one.
        `verify`: compare every byte of the folder with its manifest while loading; ArtifactError names a changed file.
        """
        if prompt_lookup and draft_model is not None:
            raise UsageError("prompt_lookup and draft_model are both given; only one of them can propose tokens")
        if not isinstance(draft_tokens, int) or isinstance(draft_tokens, bool) or not 1 <= draft_tokens <= 64:
            raise UsageError(f"draft_tokens is {draft_tokens!r}; a whole number of 1 to 64 is needed")
        path = model_folder(model, device)
        with verified(path, device, contents=verify):
            self.tokenizer = Tokenizer(path)
            self._end_token_ids = read_model_info(path).end_token_ids or self.tokenizer.end_token_ids
            self._engine = open_engine(
                path, device, exact=exact, threads=threads, verify=False, kernel=kernel,
            )  # fmt: skip
        self._row = KVCacheSlot(self._engine)
        self._prefix_cache = prefix_cache
        self._draft_tokens = draft_tokens
        self._draft: KVCacheSlot | None = None
        self._proposer: Proposer | None = PromptLookup() if prompt_lookup else None
        if draft_model is not None:
            draft = model_folder(draft_model, device)
            with verified(draft, device, contents=verify):
                if Tokenizer(draft).vocabulary() != self.tokenizer.vocabulary():
                    raise UsageError(
                        f"`{draft}` has another tokenizer than `{path}`", hint="a draft must share its tokens"
                    )
                engine = open_engine(
                    draft, device, exact=exact, threads=threads, verify=False, kernel=kernel,
                )  # fmt: skip
                self._draft = KVCacheSlot(engine)
            self._proposer = DraftModel(self._draft, self.vocab_size)
        self._grammars: GrammarCompiler | None = None
        self._lock = threading.RLock()
        self._turns = Turns()
        self._turn = object()
        self._cancelled = False

    @property
    def context_length(self) -> int:
        """Most tokens of a prompt and its answer together."""
        return self._engine.context_length

    @property
    def vocab_size(self) -> int:
        """Number of logits per position; token ids are 0 to `vocab_size - 1`."""
        return self._engine.vocab_size

    @property
    def device(self) -> str:
        """Engine and device in words."""
        return self._engine.device

    @property
    def kernel(self) -> str:
        """Whose kernels multiply quantised weights: `native` or `engine`."""
        return self._engine.kernel

    @overload
    def generate(
        self, prompt: str | Sequence[int], options: SamplingOptions | None = None, *, n: None = None, batch_size: int = 8,
        **keywords: Unpack[SamplingKeywords],
    ) -> Completion: ...  # fmt: skip

    @overload
    def generate(
        self, prompt: str | Sequence[int], options: SamplingOptions | None = None, *, n: int, batch_size: int = 8,
        **keywords: Unpack[SamplingKeywords],
    ) -> list[Completion]: ...  # fmt: skip

    @overload
    def generate(
        self, prompt: list[str], options: SamplingOptions | None = None, *, n: int | None = None, batch_size: int = 8,
        **keywords: Unpack[SamplingKeywords],
    ) -> list[Completion]: ...  # fmt: skip

    def generate(
        self, prompt: str | Sequence[int] | list[str], options: SamplingOptions | None = None, *, n: int | None = None,
        batch_size: int = 8, **keywords: Unpack[SamplingKeywords],
    ) -> Completion | list[Completion]:  # fmt: skip
        """The answer to a prompt, or a list of answers to a list of prompts, computed `batch_size` at a time.

        One prompt may be token ids instead of text. Each prompt of a list gets the same answer as alone, apart from rounding
        (in practice not with `exact`). With `n` there are n answers to each prompt, prompt by prompt; a seed is the first's,
        and one more for each that follows.
        """
        chosen = override(options, **keywords)
        if isinstance(prompt, str):
            prompts = [self.tokenizer.encode(prompt)]
        elif isinstance(prompt, list | tuple) and prompt and all(isinstance(token, int) for token in prompt):
            prompts = [[token for token in prompt if isinstance(token, int)]]
        elif isinstance(prompt, list) and all(isinstance(text, str) for text in prompt):
            prompts = [self.tokenizer.encode(str(text)) for text in prompt]
            return self._answers(prompts, chosen, 1 if n is None else n, batch_size)
        else:
            raise UsageError(f"prompt is a {type(prompt).__name__}; a text, token ids or a list of texts is needed")
        answers = self._answers(prompts, chosen, 1 if n is None else n, batch_size)
        return answers[0] if n is None else answers

    def stream(
        self, prompt: str | Sequence[int], options: SamplingOptions | None = None, **keywords: Unpack[SamplingKeywords]
    ) -> Iterator[Piece]:
        """The answer as a stream, one `Piece` per token; leaving the loop cancels the rest. Errors are raised at the call.

        The prompt is text or token ids.
        """
        ids = self.tokenizer.encode(prompt) if isinstance(prompt, str) else list(prompt)
        return self._pieces(self._admit(ids, override(options, **keywords)))

    @overload
    def chat(
        self, messages: str | Sequence[Message], options: SamplingOptions | None = None, *, n: None = None,
        template_variables: Mapping[str, Any] | None = None, **keywords: Unpack[SamplingKeywords],
    ) -> Completion: ...  # fmt: skip

    @overload
    def chat(
        self, messages: str | Sequence[Message], options: SamplingOptions | None = None, *, n: int,
        template_variables: Mapping[str, Any] | None = None, **keywords: Unpack[SamplingKeywords],
    ) -> list[Completion]: ...  # fmt: skip

    def chat(
        self, messages: str | Sequence[Message], options: SamplingOptions | None = None, *, n: int | None = None,
        template_variables: Mapping[str, Any] | None = None, **keywords: Unpack[SamplingKeywords],
    ) -> Completion | list[Completion]:  # fmt: skip
        """The assistant's next message after `messages`, by the model's chat template; a text is one message of the user.

        `n`: see `generate`. `template_variables` are the template's own, such as `enable_thinking` or `tools`.
        """
        prompt_ids = self._chat_ids(messages, template_variables)
        answers = self._answers([prompt_ids], override(options, **keywords), 1 if n is None else n)
        return answers[0] if n is None else answers

    def stream_chat(
        self, messages: str | Sequence[Message], options: SamplingOptions | None = None, *,
        template_variables: Mapping[str, Any] | None = None, **keywords: Unpack[SamplingKeywords],
    ) -> Iterator[Piece]:  # fmt: skip
        """`chat` as a stream; see `stream`."""
        return self._pieces(self._admit(self._chat_ids(messages, template_variables), override(options, **keywords)))

    async def agenerate(
        self, prompt: str | Sequence[int], options: SamplingOptions | None = None, **keywords: Unpack[SamplingKeywords]
    ) -> Completion:
        """`generate` for one prompt, computed in a thread; requests of one model wait for each other."""
        async with self._turns.lock():
            return await asyncio.to_thread(lambda: self.generate(prompt, options, **keywords))

    async def achat(
        self, messages: str | Sequence[Message], options: SamplingOptions | None = None, *,
        template_variables: Mapping[str, Any] | None = None, **keywords: Unpack[SamplingKeywords],
    ) -> Completion:  # fmt: skip
        """`chat`, computed in a thread; requests of one model wait for each other."""
        async with self._turns.lock():
            return await asyncio.to_thread(
                lambda: self.chat(messages, options, template_variables=template_variables, **keywords)
            )

    def astream(
        self, prompt: str | Sequence[int], options: SamplingOptions | None = None, **keywords: Unpack[SamplingKeywords]
    ) -> AsyncIterator[Piece]:
        """`stream` for `async for`; requests of one model wait for each other. Errors are raised by the loop."""
        return async_pieces(self._turns, lambda: self.stream(prompt, options, **keywords))

    def astream_chat(
        self, messages: str | Sequence[Message], options: SamplingOptions | None = None, *,
        template_variables: Mapping[str, Any] | None = None, **keywords: Unpack[SamplingKeywords],
    ) -> AsyncIterator[Piece]:  # fmt: skip
        """`stream_chat` for `async for`; see `astream`."""
        variables = template_variables
        return async_pieces(
            self._turns, lambda: self.stream_chat(messages, options, template_variables=variables, **keywords)
        )

    def score(self, ids: Sequence[int], count: int = 0) -> tuple[TokenLogprobs, ...]:
        """Log-probabilities of the token ids after the first, each with the `count` likeliest tokens at its position."""
        check_ids([ids], self.vocab_size)
        check_room(len(ids), self.context_length)
        SamplingOptions(prompt_logprobs=count)
        with self._lock:
            self._begin()
            return self._row.start_scored(ids, count)[1]

    def cancel(self) -> None:
        """End the running request of any thread after its next token; its `finish_reason` is `cancelled`."""
        self._cancelled = True

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
            if self._draft is not None:
                self._draft.engine.close()

    def __enter__(self) -> LLM:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _chat_ids(self, messages: str | Sequence[Message], variables: Mapping[str, Any] | None) -> list[int]:
        chat = [{"role": "user", "content": messages}] if isinstance(messages, str) else messages
        return self.tokenizer.encode_chat(chat, variables=variables)

    def _answers(
        self, prompts: list[list[int]], options: SamplingOptions, n: int, batch_size: int = 8
    ) -> list[Completion]:
        """`n` answers to each prompt, prompt by prompt, `batch_size` at a time where one step can serve several."""
        for name, value in (("n", n), ("batch_size", batch_size)):
            if not isinstance(value, int) or isinstance(value, bool) or value < 1:
                raise UsageError(f"{name} is {value!r}; a whole number of 1 or more is needed")
        seeds = [options.seed if options.seed is None else (options.seed + index) % 2**64 for index in range(n)]
        answers = [self._admit(ids, replace(options, seed=seed)) for ids in prompts for seed in seeds]
        together = self._proposer is None and options.prompt_logprobs is None and options.num_beams == 1
        size = batch_size if together else 1
        batches = [answers[start : start + size] for start in range(0, len(answers), size)]
        return [completion for batch in batches for completion in self._complete(batch)]

    def _admit(self, prompt_ids: list[int], options: SamplingOptions) -> Answer:
        # A special token has no text, so a stop string that names one is searched by its id.
        special = [self.tokenizer.special_id(text) for text in options.stop]
        ids = (*options.stop_token_ids, *(token for token in special if token is not None))
        matcher = None
        if options.grammar is not None:
            if self._grammars is None:
                size = max(self.vocab_size, self.tokenizer.id_count)
                self._grammars = GrammarCompiler(self.tokenizer.to_json(), size, self._end_token_ids, self.vocab_size)
            matcher = self._grammars.matcher(options.grammar)
        chosen = override(options, stop_token_ids=ids)
        request = admit(prompt_ids, chosen, self.context_length, self._end_token_ids, matcher)
        check_ids([prompt_ids], self.vocab_size)
        return Answer(request, self.tokenizer)

    def _begin(self, *, anew: bool = False) -> object:
        """Take the model over from an older stream; clear the cache unless `prefix_cache` keeps it and it may be used.

        A beginning from the cache is rounded otherwise than a computed one, which a seed's answer must not depend on.
        """
        self._turn = turn = object()
        self._cancelled = False
        if anew or not self._prefix_cache:
            self._row.ids.clear()
        return turn

    def _advance(self, answer: Answer) -> Piece:
        if self._cancelled and answer.request.finish_reason is None:
            answer.request.finish_reason = "cancelled"
        return answer.advance()

    def _complete(self, answers: list[Answer]) -> list[Completion]:
        """Run one batch to its end."""
        with self._lock:
            first = answers[0].request
            self._begin(anew=first.options.is_seeded)
            if first.options.num_beams > 1:
                self._row.clear()
                beam_search(self._engine, first)
                answers[0].take_all()
            elif len(answers) == 1:
                for _ in run_row(self._row, first, self._proposer, self._draft_tokens):
                    self._advance(answers[0])
            else:
                self._row.clear()
                for _ in run_batch(self._engine, [answer.request for answer in answers]):
                    for answer in answers:
                        if answer.has_unread_token:
                            self._advance(answer)
        return [answer.completion() for answer in answers]

    def _pieces(self, answer: Answer) -> Iterator[Piece]:
        if answer.request.options.num_beams > 1:
            raise UsageError("num_beams is above 1: the answer is known only at its end", hint="use generate")
        return self._stream(answer)

    def _stream(self, answer: Answer) -> Iterator[Piece]:
        with self._lock:
            turn = self._begin(anew=answer.request.options.is_seeded)
        steps = run_row(self._row, answer.request, self._proposer, self._draft_tokens)
        while answer.request.finish_reason is None:
            with self._lock:
                if self._turn is not turn:
                    raise GenerationError(
                        "a newer request has taken this model over", hint="finish one stream before the next request"
                    )
                next(steps)
                piece = self._advance(answer)
            yield piece
