"""Answers of random weights held to a form: what comes out always has it, or there is an error before the first token."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ovround.errors import GenerationError, MissingExtraError, UsageError
from ovround.runtime import LLM, Grammar
from ovround.runtime.decoding.grammar import ANY_JSON_OBJECT

pytest.importorskip("llguidance")
SCHEMA = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 8},
        "age": {"type": "integer", "minimum": 0, "maximum": 150},
        "colours": {"type": "array", "items": {"enum": ["red", "grün", "青"]}, "maxItems": 3},
        "ok": {"type": "boolean"},
    },
    "required": ["name", "age", "colours", "ok"],
    "additionalProperties": False,
}


@pytest.fixture(scope="module")
def models(openvino_folder: Path, onnx_folder: Path) -> Iterator[dict[str, LLM]]:
    loaded = {
        "plain": LLM(openvino_folder, exact=True, threads=1),
        "lookup": LLM(onnx_folder, exact=True, threads=1, prompt_lookup=True),
    }
    yield loaded
    for llm in loaded.values():
        llm.close()


@pytest.fixture(params=["plain", "lookup"])
def llm(request: pytest.FixtureRequest, models: dict[str, LLM]) -> LLM:
    return models[request.param]


@pytest.mark.parametrize("seed", range(6))
def test_a_schema_is_kept_by_random_weights(llm: LLM, seed: int) -> None:
    grammar = Grammar("json_schema", json.dumps(SCHEMA))
    answer = llm.generate("the cat", grammar=grammar, temperature=1.0, seed=seed, max_new_tokens=300)
    assert answer.finish_reason == "stop"
    value = json.loads(answer.text)
    assert list(value) == SCHEMA["required"]
    assert len(value["name"]) <= 8
    assert 0 <= value["age"] <= 150
    assert set(value["colours"]) <= {"red", "grün", "青"}
    assert isinstance(value["ok"], bool)


@pytest.mark.parametrize("seed", range(3))
def test_expressions_and_grammars(llm: LLM, seed: int) -> None:
    options: dict[str, Any] = {"temperature": 1.5, "seed": seed, "max_new_tokens": 60}
    text = llm.generate("the", grammar=Grammar("regex", r"[a-f]{2,5}-\d{3}"), **options).text
    assert re.fullmatch(r"[a-f]{2,5}-\d{3}", text)
    lark = 'start: sum\nsum: NUMBER ("+" NUMBER){1,3}\nNUMBER: /[1-9][0-9]?/\n'
    assert re.fullmatch(
        r"[1-9]\d?(\+[1-9]\d?){1,3}", llm.generate("the", grammar=Grammar("lark", lark), **options).text
    )


def test_each_row_of_a_batch_has_its_own_state(models: dict[str, LLM]) -> None:
    grammar = Grammar("regex", "[ab]{3}x|c{5}")
    answers = models["plain"].generate(
        ["a", "once", "the cat"], grammar=grammar, temperature=2.0, seed=4, max_new_tokens=20
    )
    assert all(re.fullmatch(grammar.source, answer.text) for answer in answers)


def test_any_object(llm: LLM) -> None:
    answer = llm.generate("x", grammar=ANY_JSON_OBJECT, temperature=0.8, seed=1, max_new_tokens=120)
    assert answer.text.startswith("{")


def test_the_context_may_end_it_early(llm: LLM) -> None:
    answer = llm.generate("x", grammar=Grammar("regex", "a{500}"), max_new_tokens=5)
    assert (answer.finish_reason, set(answer.text)) == ("length", {"a"})


@pytest.mark.parametrize(
    ("kind", "source", "word"),
    [
        ("json_schema", '{"type": "no such type"}', "json schema"),
        ("json_schema", '{"type": "string", "pattern": "(?=a)b"}', "json schema"),
        ("json_schema", '{"$ref": "https://example.org/schema.json"}', "json schema"),
        ("regex", "(", "regex"),
        ("lark", "start: nowhere", "lark"),
    ],
)
def test_what_cannot_be_imposed_is_an_error_at_the_call(llm: LLM, kind: Any, source: str, word: str) -> None:
    with pytest.raises(GenerationError, match=f"{word} cannot be imposed"):
        llm.stream("x", grammar=Grammar(kind, source))


def test_what_is_no_form(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    wrong: Any = "xml"
    for arguments in ((wrong, "x"), ("json_schema", "{"), ("regex", ""), ("json_schema", "[" * 100_000)):
        with pytest.raises(UsageError):
            Grammar(*arguments)
    monkeypatch.setitem(sys.modules, "llguidance", None)
    with LLM(folder) as llm, pytest.raises(MissingExtraError) as caught:
        llm.generate("x", grammar=Grammar("regex", "a"))
    assert caught.value.hint == "pip install 'ovround[grammar]'"
