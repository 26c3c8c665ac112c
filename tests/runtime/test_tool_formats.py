"""Answers in the format of each family, written out by hand: whole, split at every character, cut at every character, and hostile."""

from __future__ import annotations

import json
import time
from typing import Any

import pytest

from ovround.errors import UsageError
from ovround.runtime.text.tool_formats.answer_parser import (
    AnswerParser,
    AnswerSyntax,
    ParsedAnswer,
    assembled,
    parse_answer,
)
from ovround.runtime.text.tool_formats.deepseek import CALL_BEGIN, CALL_END, CALLS_BEGIN, CALLS_END, SEPARATOR
from ovround.runtime.text.tool_formats.reasoning import TAGS, opened_by, tags_of_template
from ovround.runtime.text.tool_formats.registry import FORMATS, format_of_template, tool_format

TOOLS: dict[str, dict[str, Any]] = {
    "get_weather": {
        "type": "object",
        "properties": {
            "city": {"type": "string"}, "days": {"type": "integer"}, "where": {"type": "object"},
            "exact": {"anyOf": [{"type": "boolean"}, {"type": "null"}]},
        },
    },
    "now": {"type": "object", "properties": {}},
}  # fmt: skip
OSLO = {"city": 'Os"lo\n<é🙂>', "days": 2}
J = json.dumps(OSLO, ensure_ascii=False)
ONE = f'{{"name": "get_weather", "arguments": {J}}}'
TWO = '{"arguments": {}, "name": "now"}'
CITY = OSLO["city"]
WEATHER, NOW = ("get_weather", OSLO), ("now", {})
DSML, DSML_END = "<\uff5cDSML\uff5c", "</\uff5cDSML\uff5c"
GEMMA_CITY = '<|"|>' + str(CITY) + '<|"|>'
ANSWERS: list[tuple[str, str, str, list[Any]]] = [
    ("hermes", f"Let me look.\n\n<tool_call>\n{ONE}\n</tool_call>\n<tool_call>\n{TWO}\n</tool_call>", "Let me look.", [WEATHER, NOW]),
    ("hermes", f"<tool_call>{ONE}\n{TWO}", "", [WEATHER, NOW]),
    ("hermes", f'<tool_call>{{"name": "get_weather", "arguments": {json.dumps(J)}}}</tool_call> Done.', "Done.", [WEATHER]),
    ("hermes", '<tool_call>{"name": "other", "arguments": {}}</tool_call>', '<tool_call>{"name": "other", "arguments": {}}</tool_call>', []),  # noqa: E501
    ("hermes", "a <tool_call> b < c <tool", "a <tool_call> b < c <tool", []),
    (
        "qwen3_coder",
        f"Look:\n<tool_call>\n<function=get_weather>\n<parameter=city>\n{CITY}\n</parameter>\n<parameter=days>\n2\n</parameter>\n"
        "</function>\n</tool_call>\n<function=now>\n</function>",
        "Look:", [WEATHER, NOW],
    ),
    ("qwen3_coder", "<tool_call><function=get_weather><parameter=exact>True</parameter></function></tool_call>", "", [("get_weather", {"exact": True})]),  # noqa: E501
    ("mistral", f"[TOOL_CALLS] [{ONE}, {TWO}]", "", [WEATHER, NOW]),
    ("mistral", f"Yes.[TOOL_CALLS]get_weather[ARGS]{J}[TOOL_CALLS]now[CALL_ID]abc[ARGS]{{}}", "Yes.", [WEATHER, NOW]),
    ("mistral", f"[TOOL_CALLS]get_weather{J}", "", [WEATHER]),
    ("llama3_json", f'{{"name": "get_weather", "parameters": {J}}}; {TWO}', "", [WEATHER, NOW]),
    ("llama3_json", f'<|python_tag|>{{"type": "function", "name": "get_weather", "parameters": {J}}}<|eom_id|>', "", [WEATHER]),
    ("llama3_json", '<|python_tag|>get_weather.call(city="Oslo")', "", [("get_weather", {"city": "Oslo"})]),
    ("llama3_json", f"<function=get_weather>{J}</function>", "", [WEATHER]),
    ("pythonic", "[get_weather(city='Os\"lo\\n<é🙂>', days=2), now()]", "", [WEATHER, NOW]),
    ("pythonic", 'So: <|python_start|>[get_weather(where={"a": [1, -2.5, None]}, exact=True)]<|python_end|>', "So:", [("get_weather", {"where": {"a": [1, -2.5, None]}, "exact": True})]),  # noqa: E501
    ("pythonic", "[1] is a footnote", "[1] is a footnote", []),
    ("granite", f"<|tool_call|>[{ONE}, {TWO}]", "", [WEATHER, NOW]),
    ("phi4_mini", f"Ok <|tool_call|>[{ONE}]<|/tool_call|>", "Ok", [WEATHER]),
    ("phi4_mini", f"functools[{ONE}]", "", [WEATHER]),
    ("harmony", "<|channel|>analysis<|message|>Hm.<|end|><|start|>assistant<|channel|>final<|message|>four<|return|>", "four", []),
    (
        "harmony",
        "<|channel|>analysis<|message|>Hm.<|end|><|start|>assistant<|channel|>commentary<|message|>I look.<|end|>"
        f"<|start|>assistant<|channel|>commentary to=functions.get_weather <|constrain|>json<|message|>{J}<|call|>",
        "I look.", [WEATHER],
    ),
    ("harmony", f" to=functions.get_weather<|channel|>commentary json<|message|>{J}<|call|>", "", [WEATHER]),
    ("harmony", f"analysisHm.assistantcommentary to=functions.get_weather json{J}", "analysisHm.assistant", [WEATHER]),
    (
        "deepseek",
        f"Ok{CALLS_BEGIN}{CALL_BEGIN}function{SEPARATOR}get_weather\n```json\n{J}\n```{CALL_END}\n{CALL_BEGIN}function{SEPARATOR}now\n"
        f"```json\n{{}}\n```{CALL_END}{CALLS_END}",
        "Ok", [WEATHER, NOW],
    ),
    ("deepseek", f"{CALLS_BEGIN}{CALL_BEGIN}get_weather{SEPARATOR}{J}{CALL_END}{CALL_BEGIN}now{SEPARATOR}{{}}{CALL_END}{CALLS_END}", "", [WEATHER, NOW]),  # noqa: E501
    (
        "deepseek",
        f'{DSML}function_calls>\n{DSML}invoke name="get_weather">\n{DSML}parameter name="city" string="true">{CITY}{DSML_END}parameter>\n'  # noqa: E501
        f'{DSML}parameter name="days" string="false">2{DSML_END}parameter>\n{DSML_END}invoke>\n{DSML_END}function_calls>',
        "", [WEATHER],
    ),
    ("gemma", f"<|tool_call>call:get_weather{{city:{GEMMA_CITY},days:2}}<tool_call|><|tool_call>call:now{{}}<tool_call|>", "", [WEATHER, NOW]),  # noqa: E501
    ("gemma", "<start_function_call>call:get_weather{city:<escape>Oslo<escape>}<end_function_call>", "", [("get_weather", {"city": "Oslo"})]),  # noqa: E501
    ("gemma", 'Here:\n```tool_code\nprint(get_weather(city="Oslo"))\nnow()\n```\nWait.', "Here:Wait.", [("get_weather", {"city": "Oslo"}), NOW]),  # noqa: E501
    (
        "minimax",
        f'Ok.\n<minimax:tool_call>\n<invoke name="get_weather">\n<parameter name="city">{CITY}</parameter>\n<parameter name="days">2</parameter>\n'  # noqa: E501
        '</invoke>\n<invoke name="now">\n</invoke>\n</minimax:tool_call>',
        "Ok.", [WEATHER, NOW],
    ),
    ("minimax", f"<tool_calls>\n{ONE}\n{TWO}\n</tool_calls>", "", [WEATHER, NOW]),
    (
        "glm4",
        f"<tool_call>get_weather\n<arg_key>city</arg_key>\n<arg_value>{CITY}</arg_value>\n<arg_key>days</arg_key>\n<arg_value>2</arg_value>\n"
        "</tool_call>\n<tool_call>now</tool_call>",
        "", [WEATHER, NOW],
    ),
    ("generic", f"Sure:\n```json\n[{ONE},\n{TWO}]\n```\n", "Sure:", [WEATHER, NOW]),
    ("generic", '```json\n{"a": 1}\n```', '```json\n{"a": 1}\n```', []),
    ("generic", f'[{{"id": "x", "type": "function", "function": {ONE}}}]', "", [WEATHER]),
    ("generic", 'get_weather(city="Oslo") is called', "is called", [("get_weather", {"city": "Oslo"})]),
    ("generic", '{"name": "Anna", "arguments": {}}', '{"name": "Anna", "arguments": {}}', []),
    ("generic", '  {"city": "Oslo"}\n', '  {"city": "Oslo"}\n', []),
    ("generic", '{"name": "get_weather", "arguments": {"city": nothing}} so', None, []),
]  # fmt: skip
IDS = [f"{index} {case[0]}" for index, case in enumerate(ANSWERS)]


def syntax(name: str, **more: Any) -> AnswerSyntax:
    return AnswerSyntax(tool_format(name), TOOLS, TAGS, **more)


def in_pieces(how: AnswerSyntax, pieces: list[str], *, cut: bool = False) -> ParsedAnswer:
    parser = AnswerParser(how)
    events = [event for piece in pieces for event in parser.push(piece)]
    return assembled([*events, *parser.finish(cut=cut)], cut=cut)


def values(answer: ParsedAnswer) -> list[Any]:
    return [(call.name, json.loads(call.arguments)) for call in answer.calls]


@pytest.mark.parametrize(("name", "text", "content", "calls"), ANSWERS, ids=IDS)
def test_each_format(name: str, text: str, content: str | None, calls: list[Any]) -> None:
    for how in {name, "generic"}:
        answer = parse_answer(text, syntax(how))
        assert values(answer) == calls
        assert content is None or answer.content == content
        assert answer.reasoning == ("Hm." if text.startswith("<|channel|>analysis") else "")


@pytest.mark.parametrize(("name", "text", "content", "calls"), ANSWERS, ids=IDS)
def test_a_split_anywhere_changes_nothing(name: str, text: str, content: str | None, calls: list[Any]) -> None:
    text = f"<think>\nI need <tool_call> here\n</think>\n\n{text}"
    expected = parse_answer(text, syntax(name))
    assert expected.reasoning.startswith("I need <tool_call> here")
    assert in_pieces(syntax(name), list(text)) == expected
    for at in range(len(text)):
        assert in_pieces(syntax(name), [text[:at], text[at:]]) == expected


@pytest.mark.parametrize(("name", "text", "content", "calls"), ANSWERS, ids=IDS)
def test_a_cut_anywhere_shows_no_marker_and_no_half_call(
    name: str, text: str, content: str | None, calls: list[Any]
) -> None:
    if not calls or content is None:
        return
    for at in range(len(text)):
        answer = parse_answer(text[:at], syntax(name), cut=True)
        found = values(answer)
        assert found == calls[: len(found)]
        if not text.startswith(("{", "[{", "[get", "get", "analysis", "func", " to")):  # bare calls have no marker
            assert content.startswith(answer.content.strip())
            assert in_pieces(syntax(name), list(text[:at]), cut=True) == answer


HOSTILE = {
    "markers": "<tool_call>" * 5_000, "braces": "<tool_call>{" * 5_000, "brackets": "[" * 60_000,
    "depth": '{"name": "get_weather", "arguments": ' + '{"a":' * 12_000, "quotes": '<tool_call>{"' * 5_000,
    "space": " \n" * 30_000, "space in a call": "<tool_call>" + " " * 60_000, "backslashes": '{"name": "' + "\\" * 60_000,
    "begun markers": "<tool_cal" * 6_000, "python": "[get_weather(" + "city=" * 12_000, "quoted": '[get_weather(city="' + "\\x" * 20_000,  # noqa: E501
    "channels": "<|channel|>" * 5_000, "a long name": "<tool_call>" + "n" * 60_000, "parameters":
    "<function=get_weather><parameter=city>" + "\n</parameter" * 5_000, "values": "<tool_call>get_weather<arg_key>city</arg_key><arg_value>" + "</arg_val" * 6_000,  # noqa: E501
    "gemma": "<|tool_call>call:now{" + '<|"|>' * 12_000, "a string": '{"name": "get_weather", "arguments": {"city": "' + "x" * 60_000,
}  # fmt: skip


@pytest.mark.parametrize("text", HOSTILE.values(), ids=HOSTILE)
def test_hostile_answers_take_linear_time(text: str) -> None:
    """Twice the text takes about twice the time; a quadratic reading would take minutes for these."""
    for pieces in ([text], [text[at : at + 3] for at in range(0, len(text), 3)]):
        started = time.process_time()
        answer = in_pieces(syntax("generic"), pieces)
        assert not answer.calls
        assert time.process_time() - started < 2
    assert len(answer.content) + len(answer.reasoning) > 0 or not text.strip()


def test_calls_are_given_as_they_come() -> None:
    parser = AnswerParser(syntax("hermes"))
    text = f"Let me look.<tool_call>{ONE}</tool_call>"
    events = [(at, event) for at, character in enumerate(text) for event in parser.push(character)]
    kinds = [event.kind for _, event in events]
    assert kinds.count("text") == len("Let me look.") - 2  # white space waits for what follows it
    named = next(at for at, event in events if event.kind == "call")
    assert text[: named + 1].endswith('"arguments": {'[:-1] + "{") or text[named] == "{"
    assert kinds.count("arguments") > len(J) // 2
    assert parser.calls == 1


def test_one_call_where_several_are_not_wanted() -> None:
    answer = parse_answer(f"<tool_call>{ONE}</tool_call><tool_call>{TWO}</tool_call>", syntax("hermes", parallel=False))
    assert values(answer) == [WEATHER]


def test_a_cut_call_is_no_call_and_a_broken_one_is_text() -> None:
    text = f"<tool_call>{ONE[:-9]}"
    cut = parse_answer(text, syntax("hermes"), cut=True)
    assert (cut.content, cut.calls, cut.broken) == ("", (), True)
    ended = parse_answer(text, syntax("hermes"))
    assert (ended.content, ended.calls, ended.broken) == (text, (), True)
    forced = parse_answer('{"name": "get_wea', syntax("generic", forced=True), cut=True)
    assert (forced.content, forced.calls) == ("", ())


@pytest.mark.parametrize(("opening", "closing"), TAGS.items())
def test_reasoning(opening: str, closing: str) -> None:
    for how in (syntax("generic"), AnswerSyntax(tool_format("generic"), {}, TAGS)):
        for text in (f"{opening}\nHm.\n{closing}\n\nFour.", f" {opening}Hm.{closing}Four."):
            for pieces in ([text], list(text)):
                answer = in_pieces(how, pieces)
                assert (answer.reasoning, answer.content) == ("Hm.", "Four.")
    assert opened_by(f"<assistant>{opening}\n", TAGS) == closing
    assert opened_by(f"{opening}\n\n{closing}\n\n", TAGS) is None
    opened = parse_answer(f"Hm.{closing}Four.", syntax("hermes", opened=closing))
    assert (opened.reasoning, opened.content) == ("Hm.", "Four.")
    unfinished = parse_answer("Hm. <tool_call>", syntax("hermes", opened=closing), cut=True)
    assert (unfinished.reasoning, unfinished.content) == ("Hm. <tool_call>", "")
    assert tags_of_template(f"... {closing} ...")[opening] == closing


def test_text_is_kept_as_it_is() -> None:
    text = "  a\n\n <think> b </think> [x] {y} \n"
    for how in (syntax("generic"), AnswerSyntax(tool_format("hermes"), {})):
        assert parse_answer(text, how).content == text


TEMPLATES = {
    "hermes": "<tools>...</tools> <tool_call>{'name'", "qwen3_coder": "<tool_call>\n<function=x>\n<parameter=a>",
    "mistral": "[AVAILABLE_TOOLS]...[TOOL_CALLS]", "llama3_json": "<|start_header_id|>ipython", "pythonic": "<|header_start|>",
    "granite": "<|start_of_role|>assistant<|end_of_role|><|tool_call|>", "phi4_mini": "<|tool|>..<|/tool|>", "harmony": "<|start|>..<|channel|>..<|message|>",  # noqa: E501
    "deepseek": f"{CALLS_BEGIN}{CALL_BEGIN}", "gemma": "<start_of_turn>model", "minimax": "<minimax:tool_call>", "glm4": "<tool_call><arg_key>",  # noqa: E501
    "generic": "<|im_start|>",
}  # fmt: skip


def test_the_template_shows_the_format() -> None:
    assert {format_of_template(text).name: name for name, text in TEMPLATES.items()} == {name: name for name in FORMATS}
    with pytest.raises(UsageError, match="`hermse`; allowed: deepseek, gemma"):
        tool_format("hermse")
