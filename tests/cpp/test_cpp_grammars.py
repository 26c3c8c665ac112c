"""The C++ runtime constrains answers by llguidance's C API: the same tokens and errors as in Python."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from cpp_build import replay, run

from ovround.conversion.convert import convert
from ovround.errors import GenerationError, UsageError
from ovround.options.convert_options import ConvertOptions
from ovround.runtime import LLM, Grammar

llguidance = pytest.importorskip("llguidance")
SCHEMA = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 12},
        "age": {"type": "integer", "minimum": 0, "maximum": 120},
        "tags": {"type": "array", "items": {"enum": ["a", "b\u00e9", "\u4e2d"]}, "maxItems": 3},
        "nested": {"anyOf": [{"type": "null"}, {"type": "object", "additionalProperties": {"type": "number"}}]},
    },
    "required": ["name", "age", "tags"],
    "additionalProperties": False,
}
GRAMMARS: list[tuple[str, str]] = [
    ("json_schema", json.dumps(SCHEMA)),
    (
        "json_schema",
        '{"x-guidance": {"whitespace_flexible": true}, "type": "array", "items": {"const": 1}, "maxItems": 4}',
    ),
    ("json_schema", '{"z": 1, "type": "object", "properties": {"z": {"type": "boolean"}, "a": {"const": null}}}'),
    ("regex", r"[a-z]+ (is|was) [A-Z]{3,8}\."),
    ("regex", r"(The answer is: )?\d{2,4}"),
    ("regex", "\u4e2d\u6587 (yes|no)!?"),
    ("lark", 'start: "once " NAME (", " NAME)* "."\nNAME: /[A-Z][a-z]{1,6}/\n'),
]
OPTIONS: list[dict[str, Any]] = [
    {"max_new_tokens": 48},
    {"max_new_tokens": 48, "temperature": 1.0, "seed": 5},
    {"max_new_tokens": 24, "temperature": 0.7, "seed": 2, "repetition_penalty": 1.2, "logit_bias": [[40, 3.0]]},
]
MODELS = ["demo", "TinyStories-656K", "stories260K"]  # byte-level BPE, and tokenizers that add a space first, or always
pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]  # the first test builds


@pytest.fixture(scope="module", params=MODELS)
def model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    name: str = request.param
    source = "demo" if name == "demo" else str(request.getfixturevalue("shared") / "models" / name)
    options = ConvertOptions(formats=("openvino",), group_size=-1, recipe="rtn")
    return convert(source, tmp_path_factory.mktemp(name) / "out", options).folders[0]


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    options = ConvertOptions(formats=("openvino",), group_size=64, recipe="rtn")
    return convert("demo", tmp_path_factory.mktemp("demo") / "out", options).folders[0]


def answers(programs: Path, folder: Path, requests: list[dict[str, Any]], load: Any = None) -> list[Any]:
    replies = list(replay(programs, folder, requests, load))
    if any("whose library cannot be loaded" in reply.get("error", "") for reply in replies):
        pytest.skip("neither libllguidance nor libpython, which the wheel's library needs, can be opened")
    return replies


@pytest.mark.parametrize("load", [{}, {"prompt_lookup": True}])
def test_forms_give_the_tokens_of_python(programs: Path, model: Path, load: dict[str, Any]) -> None:
    cases = [(kind, source, options) for kind, source in GRAMMARS for options in (OPTIONS[:1] if load else OPTIONS)]
    prompt = "The name of the girl"
    requests = [{"prompt": prompt, "options": {**options, kind: source}} for kind, source, options in cases]
    replies = answers(programs, model, requests, load)
    with LLM(model, exact=True, threads=1, **load) as llm:
        for (kind, source, options), answer in zip(cases, replies, strict=True):
            keywords = {**options, "logit_bias": dict(options.get("logit_bias", []))}
            try:
                expected = llm.generate(prompt, grammar=Grammar(kind, source), **keywords)  # type: ignore[arg-type]
            except GenerationError as error:  # a vocabulary without a brace
                failure = str(error)
            else:
                failure = None
            assert answer.get("error") == failure
            if failure is not None:
                continue
            assert answer["token_ids"] == list(expected.token_ids), (source, answer["text"], expected.text)
            assert (answer["text"], answer["finish_reason"]) == (expected.text, expected.finish_reason)
            assert answer["accepted_tokens"] == expected.usage.accepted_tokens


REFUSED = [
    ("json_schema", "{"),
    ("json_schema", "true"),
    ("json_schema", '{"type": "nothing"}'),
    ("json_schema", '{"type": "string", "pattern": "(a"}'),
    ("regex", "("),
    ("regex", "((((" * 80 + "a" + "))))" * 80),
    ("regex", "a" * 70000),
    ("json_schema", '{"type": "string", "minLength": 10, "maxLength": 3}'),
    ("lark", "start: nowhere"),
    ("lark", ""),
]


def test_forms_that_cannot_be_imposed_are_refused_as_python_refuses_them(programs: Path, demo: Path) -> None:
    requests = [{"prompt": "a", "options": {kind: source, "max_new_tokens": 4}} for kind, source in REFUSED]
    with LLM(demo) as llm:
        for (kind, source), answer in zip(REFUSED, answers(programs, demo, requests), strict=True):
            with pytest.raises((GenerationError, UsageError)) as refused:
                llm.generate("a", grammar=Grammar(kind, source), max_new_tokens=4)  # type: ignore[arg-type]
            message = "the JSON schema is no JSON" if source == "{" else str(refused.value)
            assert answer["error"].startswith(message), source[:40]


def test_a_library_that_is_not_there_is_an_error_that_names_the_way_out(programs: Path, demo: Path) -> None:
    done = run(programs / "ovround-run", demo, "a", "--regex", "a", "--llguidance", "/nowhere/libllguidance.so")
    assert (done.returncode, done.stdout) == (1, "")
    assert "grammars need llguidance, whose library cannot be loaded: /nowhere/libllguidance.so" in done.stderr
    assert "hint: build it from the crate" in done.stderr


def test_the_module_of_the_wheel_may_be_named(programs: Path, demo: Path) -> None:
    module = next(Path(llguidance.__file__).parent.glob("_lib*.so"))
    done = run(programs / "ovround-run", demo, "a", "--regex", "b+", "--max-new-tokens", "3", "--llguidance", module)
    if "undefined symbol: Py" in done.stderr:
        pytest.skip("libpython, which the wheel's library needs, cannot be opened")
    assert done.returncode == 0, done.stderr
    assert set(done.stdout.strip()) == {"b"}


def test_program(programs: Path, demo: Path, tmp_path: Path) -> None:
    answers(programs, demo, [{"prompt": "a", "options": {"regex": "a"}}])
    schema = tmp_path / "schema.json"
    schema.write_text(json.dumps(SCHEMA))
    done = run(programs / "ovround-run", demo, "Return the", "--raw", "--json-schema", schema, "--exact", "--json")
    with LLM(demo, exact=True) as llm:
        expected = llm.generate("Return the", grammar=Grammar("json_schema", schema.read_text()))
    assert json.loads(done.stdout)["text"] == expected.text
    assert done.stderr == ""
    both = run(programs / "ovround-run", demo, "a", "--json-schema", schema, "--regex", "a")
    assert (both.returncode, "--regex and --json-schema are both given" in both.stderr) == (2, True)
