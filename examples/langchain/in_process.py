"""LangChain without a server: a LangChain language model in one class that wraps `LLM`.

python in_process.py out/demo "The with statement is used to"
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import Any

from langchain_core.language_models.llms import LLM as LangChainLLM  # noqa: N811  our class is called LLM too
from langchain_core.outputs import GenerationChunk
from pydantic import PrivateAttr

from ovround import LLM


class Ovround(LangChainLLM):
    """A converted folder as a LangChain language model; it decodes greedily unless `temperature` is above 0."""

    folder: str
    device: str = "CPU"
    max_new_tokens: int = 64
    temperature: float = 0.0
    _llm: LLM = PrivateAttr()

    def model_post_init(self, context: Any) -> None:
        self._llm = LLM(self.folder, self.device)

    @property
    def _llm_type(self) -> str:
        return "ovround"

    def _call(self, prompt: str, stop: list[str] | None = None, run_manager: Any = None, **ignored: Any) -> str:
        return self._llm.generate(
            prompt, max_new_tokens=self.max_new_tokens, temperature=self.temperature, stop=tuple(stop or ())
        ).text

    def _stream(
        self, prompt: str, stop: list[str] | None = None, run_manager: Any = None, **ignored: Any
    ) -> Iterator[GenerationChunk]:
        for piece in self._llm.stream(
            prompt, max_new_tokens=self.max_new_tokens, temperature=self.temperature, stop=tuple(stop or ())
        ):
            yield GenerationChunk(text=piece.text)


if __name__ == "__main__":
    for text in Ovround(folder=sys.argv[1]).stream(sys.argv[2]):
        print(text, end="", flush=True)
    print()
