"""Hostile schemas and grammars are refused or compiled in time; no answer is unconstrained, and no process dies."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pytest

from ovround.checkpoint.locate import DEMO_FOLDER
from ovround.errors import GenerationError, UsageError
from ovround.runtime.decoding.grammar import Grammar, GrammarCompiler, Kind
from ovround.runtime.text.tokenizer import Tokenizer

pytest.importorskip("llguidance")


def nested(depth: int) -> str:
    return '{"type":"object","properties":{"a":' * depth + '{"type":"string"}' + "}}" * depth


def schema(**keywords: Any) -> tuple[Kind, str]:
    return "json_schema", json.dumps(keywords)


REFUSED: dict[str, tuple[Kind, str]] = {
    "60,000 parentheses": ("regex", "(" * 60_000 + "a" + ")" * 60_000),
    "300 parentheses": ("regex", "(" * 300 + "a" + ")" * 300),
    "deep Lark": ("lark", "start: " + "(" * 3_000 + '"a"' + ")" * 3_000),
    "200 objects": ("json_schema", nested(200)),
    "5,000 objects": ("json_schema", nested(5_000)),
    "10^6 choices": schema(enum=[str(i) for i in range(1_000_000)]),
    "a remote reference": schema(**{"$ref": "http://127.0.0.1:1/schema.json"}),
    "a file's reference": schema(**{"$ref": "file:///etc/passwd"}),
    "a reference to nothing": schema(**{"$ref": "#/definitions/none"}),
    "an unknown type": schema(type="nonsense"),
    "a broken pattern": schema(type="string", pattern="a{"),
    "no JSON": ("json_schema", "{"),
    "look-ahead": ("regex", "(?=a)b"),
    "an unknown rule": ("lark", "start: missing"),
    "combinations": schema(allOf=[{"anyOf": [{"type": "string", "pattern": f"a{i}{j}.*"} for j in range(8)]} for i in range(8)]),
    "a tiny step": schema(type="integer", multipleOf=1e-300),
}  # fmt: skip
IN_TIME: dict[str, tuple[Kind, str]] = {
    "repetitions of repetitions": ("regex", "((a{1,1000}){1,1000}){1,1000}"),
    "1,500 properties": schema(type="object", properties={f"k{i}": {"type": "string"} for i in range(1_500)}),
    "4,000 choices": schema(enum=[str(i) for i in range(4_000)]),
    "10^9 items": schema(type="array", minItems=10**9, items={"type": "integer"}),
    "10^9 letters": schema(type="string", minLength=10**9),
    "left recursion": ("lark", 'start: start start | "a"'),
    "itself": schema(**{"$ref": "#"}),
}


@pytest.fixture(scope="module")
def compiler() -> GrammarCompiler:
    tokenizer = Tokenizer(Path(DEMO_FOLDER))
    return GrammarCompiler(tokenizer.to_json(), tokenizer.vocab_size, [1])


@pytest.mark.parametrize("name", REFUSED)
def test_refused_with_a_reason(compiler: GrammarCompiler, name: str) -> None:
    start = time.process_time()
    with pytest.raises((UsageError, GenerationError)) as caught:
        compiler.matcher(Grammar(*REFUSED[name])).allowed()
    assert time.process_time() - start < 2
    assert 10 < len(str(caught.value)) < 2000


@pytest.mark.parametrize("name", IN_TIME)
def test_refused_or_a_bound_on_every_token(compiler: GrammarCompiler, name: str) -> None:
    start = time.process_time()
    try:
        allowed = compiler.matcher(Grammar(*IN_TIME[name])).allowed()
    except (UsageError, GenerationError):
        allowed = None
    assert time.process_time() - start < 2
    assert allowed is None or not allowed.all(), "the answer would be unconstrained"
