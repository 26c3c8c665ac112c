"""The single engine: our own `LLM`, one answer at a time, with all options and for every folder."""

from __future__ import annotations

from pathlib import Path

from ovround.runtime.llm import LLM
from ovround.runtime.server.engine_messages import EngineRequest, EngineSettings
from ovround.runtime.server.engine_pipe import EnginePipe


class SingleWorker:
    """The model, and the request that it answers."""

    slots = 1

    def __init__(self, settings: EngineSettings) -> None:
        """Raises what `LLM` raises."""
        self._llm = LLM(
            Path(settings.folder), settings.device, exact=settings.exact, threads=settings.threads,
            prefix_cache=not settings.device.upper().startswith("NPU"), draft_model=settings.draft_model,
            prompt_lookup=settings.prompt_lookup,
            kernel=settings.kernel,
            verify=settings.verify_draft and settings.draft_model is not None,  # the server has verified the folder
        )  # fmt: skip
        self.kernel = self._llm.kernel

    def work(self, pipe: EnginePipe) -> None:
        """Answer requests until the process ends."""
        while True:
            pipe.busy = False
            for number in pipe.read(wait=True):
                pipe.tokens([(number, [], True)], 0.0)
            while (request := pipe.next_request()) is not None:
                pipe.busy = True
                try:
                    self._answer(request, pipe)
                except Exception as error:  # noqa: BLE001  # an engine's error ends this answer, never the process
                    pipe.failed(request.number, error)

    def _answer(self, request: EngineRequest, pipe: EnginePipe) -> None:
        pipe.began(request.number)
        tokens = len(request.prompt_ids)
        for piece in self._llm.stream(list(request.prompt_ids), request.options):
            tokens += 1
            pipe.piece(request.number, piece, tokens / self._llm.context_length)
            pipe.stepped()
            if piece.finish_reason is not None:
                return
            cancelled = pipe.read(wait=False)
            if cancelled:
                pipe.tokens([(number, [], True) for number in cancelled], 0.0)
            if request.number in cancelled:
                return
