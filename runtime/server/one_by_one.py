"""Our own `LLM`, one answer at a time: all options, on every folder."""

from __future__ import annotations

from pathlib import Path

from ovround.runtime.llm import LLM
from ovround.runtime.server.engine_link import EngineLink
from ovround.runtime.server.wire import EngineSettings, Order


class OneByOneWorker:
    """The model, and the order that it runs."""

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

    def work(self, link: EngineLink) -> None:
        """Until the process ends."""
        while True:
            link.busy = False
            for number in link.read(wait=True):
                link.tokens([(number, [], True)], 0.0)
            while (order := link.next_order()) is not None:
                link.busy = True
                try:
                    self._answer(order, link)
                except Exception as error:  # noqa: BLE001  # whatever an engine raises ends this answer, never the process
                    link.failed(order.number, error)

    def _answer(self, order: Order, link: EngineLink) -> None:
        link.began(order.number)
        tokens = len(order.prompt_ids)
        for piece in self._llm.stream(list(order.prompt_ids), order.options):
            tokens += 1
            link.piece(order.number, piece, tokens / self._llm.context_length)
            link.stepped()
            if piece.finish_reason is not None:
                return
            cancelled = link.read(wait=False)
            if cancelled:
                link.tokens([(number, [], True) for number in cancelled], 0.0)
            if order.number in cancelled:
                return
