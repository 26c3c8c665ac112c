"""The grammar of forced calls: what it accepts, and how a tool's schema is moved into it."""

from __future__ import annotations

import json
from typing import Any

import pytest
from recorded_answer import tokenizer

from ovround.errors import GenerationError
from ovround.runtime.decoding.grammar import GrammarCompiler
from ovround.runtime.server.forced_call import forced_call
from ovround.runtime.server.nested_schema import nested_schema
from ovround.runtime.server.protocol import ChatRequest

pytest.importorskip("llguidance")
NODE = {"type": "object", "properties": {"x": {"type": "integer"}, "next": {"anyOf": [{"$ref": "#/$defs/Node"}, {"type": "null"}]}},
        "required": ["x", "next"]}  # fmt: skip
NESTED = {"$defs": {"Node": NODE}, "$id": "urn:x", "type": "object", "properties": {"node": {"$ref": "#/$defs/Node"}},
          "required": ["node"]}  # fmt: skip
TREE = {"type": "object", "properties": {"child": {"anyOf": [{"$ref": "#"}, {"type": "null"}]}}, "required": ["child"]}
ANY = {"type": "object"}


@pytest.fixture(scope="module")
def accepts(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Whether a text is a whole answer of a grammar."""
    reader = tokenizer(tmp_path_factory.mktemp("bytes"), "")
    end = reader.special_id("<|im_end|>")
    assert end is not None
    compiler = GrammarCompiler(reader.to_json(), reader.id_count, [end])

    def check(grammar: Any, text: str) -> bool:
        matcher = compiler.matcher(grammar)
        for token in [*reader.encode(text, add_special_tokens=False), end]:
            if matcher.ended:
                return token == end
            if not matcher.allowed()[token]:
                return False
            matcher.accept(token)
        return True

    return check


def call(name: str, arguments: Any) -> str:
    return json.dumps({"name": name, "arguments": arguments}, separators=(",", ":"))


def test_references_point_into_the_call(accepts: Any) -> None:
    """As pydantic writes nested models: definitions, and a model that holds itself."""
    grammar = forced_call({"f": NESTED, "g": TREE, "h": ANY})
    assert accepts(grammar, call("f", {"node": {"x": 1, "next": {"x": 2, "next": None}}}))
    assert not accepts(grammar, call("f", {"node": {"x": 1, "next": 2}}))
    assert accepts(grammar, call("g", {"child": {"child": None}}))
    assert not accepts(grammar, call("g", {"child": {"node": None}}))
    assert accepts(grammar, call("h", {"anything": [1]}))
    assert not accepts(grammar, call("i", {}))
    assert not accepts(grammar, f"[{call('h', {})}]")


def test_several_calls(accepts: Any) -> None:
    grammar = forced_call({"f": NESTED, "h": ANY}, several=True)
    node = call("f", {"node": {"x": 1, "next": None}})
    assert accepts(grammar, f"[{node}]")
    assert accepts(grammar, f"[{node},{call('h', {})},{node}]")
    assert not accepts(grammar, "[]")
    assert not accepts(grammar, node)
    assert not accepts(grammar, f"[{','.join([call('h', {})] * 17)}]")


@pytest.mark.parametrize(
    ("schema", "is_closed"),
    [
        ({"properties": {"a": {"type": "integer"}}}, True),
        ({"properties": {"a": {"type": "integer"}}, "additionalProperties": {"type": "integer"}}, False),
        ({"properties": {"a": {"type": "integer"}}, "additionalProperties": True}, False),
        ({"properties": {"a": {"type": "integer"}}, "patternProperties": {"^b": {}}}, False),
        ({}, False), ({"allOf": [{"properties": {"a": {"type": "integer"}}}]}, True),
        ({"allOf": [{"properties": {"a": {"type": "integer"}}}, {"properties": {"b": {"type": "integer"}}}]}, False),
        ({"properties": {"a": {"type": "integer"}}, "anyOf": [{"required": ["a"]}, {"required": ["b"]}]}, False),
        ({"anyOf": [{"type": "object", "properties": {"a": {"type": "integer"}}}, {"type": "null"}]}, True),
    ],
)  # fmt: skip
def test_keys_that_the_schema_does_not_name(schema: dict[str, Any], is_closed: bool, accepts: Any) -> None:
    """None where the schema does not speak of others: a model would add keys until its limit."""
    grammar = forced_call({"f": {"type": "object", **schema}})
    assert accepts(grammar, call("f", {"a": 1}))
    assert accepts(grammar, call("f", {"a": 1, "b": 2})) == (not is_closed)


def test_what_is_no_schema_stays_as_it_is() -> None:
    data = {"$ref": "#/x", "properties": {"a": 1}}
    schema = {
        "const": data,
        "enum": [data],
        "default": data,
        "properties": {"$ref": {"type": "string"}, "enum": {"$ref": "#"}},
    }
    moved = nested_schema(schema, "#/at")
    assert (moved["const"], moved["enum"], moved["default"]) == (data, [data], data)
    assert moved["properties"] == {"$ref": {"type": "string"}, "enum": {"$ref": "#/at"}}
    assert nested_schema({"$ref": "other.json#/a", "allOf": 3, "properties": 5}, "#/at")["$ref"] == "other.json#/a"


def test_a_reference_that_leads_nowhere_is_an_error(accepts: Any) -> None:
    with pytest.raises(GenerationError, match="cannot be imposed"):
        accepts(forced_call({"f": {"properties": {"a": {"$ref": "#/$defs/Missing"}}}}), "{}")


def request(**fields: Any) -> ChatRequest:
    tools = [{"type": "function", "function": {"name": name}} for name in ("first", "second", "third")]
    return ChatRequest.model_validate({"messages": [{"role": "user", "content": "x"}], "tools": tools, **fields})


def allowed(mode: str, *names: str) -> dict[str, Any]:
    tools = [{"type": "function", "function": {"name": name}} for name in names]
    return {"type": "allowed_tools", "allowed_tools": {"mode": mode, "tools": tools}}


@pytest.mark.parametrize(
    ("choice", "names", "forces", "several"),
    [
        ("none", "", False, True), ("auto", "first second third", False, True), ("required", "first second third", True, True),
        ({"type": "function", "function": {"name": "second"}}, "second", True, False),
        (allowed("auto", "third", "first"), "first third", False, True), (allowed("required", "second"), "second", True, True),
    ],
)  # fmt: skip
def test_which_tools_may_be_called(choice: Any, names: str, forces: bool, several: bool) -> None:
    asked = request(tool_choice=choice, parallel_tool_calls=True)
    assert [tool.function.name for tool in asked.callable_tools] == names.split()
    assert (asked.forces_a_call, asked.forces_several) == (forces, several)
    assert not request(tool_choice=choice).forces_several


def test_a_choice_of_tools_that_there_are_not() -> None:
    for choice in (allowed("auto", "fourth"), {"type": "function", "function": {"name": "fourth"}}):
        with pytest.raises(ValueError, match="`fourth`, a tool that is not in tools"):
            request(tool_choice=choice)
    for choice in (allowed("auto"), {"type": "allowed_tools"}, {"type": "king"}):
        with pytest.raises(ValueError, match="tool_choice"):
            request(tool_choice=choice)
