"""LangChain with the OpenAI-compatible server.

ovround serve out/demo --port 8000
python chat.py http://127.0.0.1:8000 "The with statement is used to"
"""

from __future__ import annotations

import sys

from langchain_core.output_parsers import StrOutputParser
from langchain_core.prompts import PromptTemplate
from langchain_openai import OpenAI


def chain(url: str, max_tokens: int = 24, model_name: str = "demo") -> object:
    """A chain that completes {"text": ...} with the model that `url` serves as `model_name`; it has `invoke` and `stream`."""
    model = OpenAI(base_url=f"{url}/v1", api_key="none", model=model_name, temperature=0, max_tokens=max_tokens)
    return PromptTemplate.from_template("{text}") | model | StrOutputParser()


if __name__ == "__main__":
    for piece in chain(sys.argv[1]).stream({"text": sys.argv[2]}):
        print(piece, end="", flush=True)
    print()
