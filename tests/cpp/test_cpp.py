"""The C++ runtime generates the same tokens and texts as Python, and refuses the same requests."""

from __future__ import annotations

import json
import shutil
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
from cpp_build import ROOT, replay, run

from ovround.conversion.convert import convert
from ovround.errors import GenerationError
from ovround.measure.benchmark import BenchResult
from ovround.options.convert_options import ConvertOptions
from ovround.runtime import LLM
from ovround.runtime.text.chat_template import ChatTemplate
from ovround.runtime.text.template_marker import PROBE, template_marker

MODELS = ["demo", "tales-7m", "stories3M", "TinyStories-656K", "stories260K"]
PROMPTS = [
    "Once upon a time, there was a little girl. Once upon a time, there was a",
    "The with statement is used to",
    "A",
    "mixed 混合 смесь 🙃 e\u0301a\u0308 日本語 \u202eabc\u202c\r\n\ta\x00c  two  spaces ",
]
OPTIONS: list[dict[str, Any]] = [
    {"max_new_tokens": 40},
    {"max_new_tokens": 40, "temperature": 0.8, "top_p": 0.95, "seed": 7},
    {"max_new_tokens": 40, "temperature": 3.0, "seed": 11, "ignore_eos": True},  # rare and broken bytes come too
    {"max_new_tokens": 24, "temperature": 1.0, "top_k": 20, "min_p": 0.02, "seed": 3, "repetition_penalty": 1.3},
    {"max_new_tokens": 24, "temperature": 1.2, "seed": 5, "presence_penalty": 0.5, "frequency_penalty": 0.3},
    {"max_new_tokens": 24, "logit_bias": [[30, 6.0], [31, -6.0]], "stop": [" a", "\n"]},
    {"max_new_tokens": 8, "logit_bias": [[10**7, 50.0]], "stop_token_ids": [10**7]},  # beyond every vocabulary
]
pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]  # the first test builds


@pytest.fixture(scope="module", params=MODELS)
def model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    name: str = request.param
    source = "demo" if name == "demo" else str(request.getfixturevalue("shared") / "models" / name)
    group_size = -1 if name == "stories260K" else 32  # its 172 inputs are no multiple of 32
    options = ConvertOptions(formats=("openvino",), group_size=group_size, recipe="rtn")
    return convert(source, tmp_path_factory.mktemp(name) / "out", options).folders[0]


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    options = ConvertOptions(formats=("openvino",), group_size=64, recipe="rtn")
    return convert("demo", tmp_path_factory.mktemp("demo") / "out", options).folders[0]


def keywords(options: dict[str, Any]) -> dict[str, Any]:
    return {**options, "logit_bias": dict(options.get("logit_bias", []))}


def test_units(programs: Path) -> None:
    done = run("ctest", "--test-dir", programs, "--output-on-failure")
    assert done.returncode == 0, done.stdout


def test_tokens_and_pieces_are_those_of_python(programs: Path, model: Path) -> None:
    requests = [{"prompt": prompt, "options": options} for options in OPTIONS for prompt in PROMPTS]
    answers = replay(programs, model, requests)
    with LLM(model, exact=True, threads=1) as llm:
        for request, answer in zip(requests, answers, strict=True):
            pieces = list(llm.stream(request["prompt"], **keywords(request["options"])))
            assert answer["token_ids"] == [piece.token_id for piece in pieces], request
            assert answer["pieces"] == [piece.text for piece in pieces], request
            assert answer["text"] == "".join(answer["pieces"])
            assert answer["finish_reason"] == pieces[-1].finish_reason
            assert pieces[-1].usage is not None
            assert answer["prompt_tokens"] == pieces[-1].usage.prompt_tokens


def test_batches_are_those_of_python(programs: Path, model: Path) -> None:
    requests = [{"prompts": PROMPTS, "options": options} for options in OPTIONS]
    answers = replay(programs, model, requests)
    with LLM(model, exact=True, threads=1) as llm:
        for options, batch in zip(OPTIONS, answers, strict=True):
            expected = [
                (completion.text, list(completion.token_ids), completion.finish_reason)
                for completion in llm.generate(PROMPTS, **keywords(options))
            ]
            assert [(answer["text"], answer["token_ids"], answer["finish_reason"]) for answer in batch] == expected


def test_texts_have_the_same_tokens(programs: Path, model: Path) -> None:
    texts = [*PROMPTS, "</s><s> special", " leading", "x" * 3000]
    requests = [{"encode": text, "special": special} for text in texts for special in (True, False)]
    answers = replay(programs, model, requests)
    with LLM(model) as llm:
        for request, ids in zip(requests, answers, strict=True):
            assert ids == llm.tokenizer.encode(request["encode"], add_special_tokens=request["special"]), request


def test_refusals_are_those_of_python(programs: Path, demo: Path) -> None:
    with LLM(demo) as llm:
        long = "word " * llm.context_length
        cases: list[tuple[str, dict[str, Any]]] = [
            (long, {}),
            (long, {"max_new_tokens": 5}),
            ("a", {"max_new_tokens": 9999}),
        ]
        answers = replay(programs, demo, [{"prompt": prompt, "options": options} for prompt, options in cases])
        for (prompt, options), answer in zip(cases, answers, strict=True):
            with pytest.raises(GenerationError) as refused:
                llm.generate(prompt, **options)
            assert (answer["error"], answer["hint"]) == (str(refused.value), refused.value.hint)


CHATS = [
    [("user", "Hello")],
    [("system", " Be  brief. \n"), ("user", "How do I open a file?")],
    [
        ("user", "\n 1 + 1?\u3000\xa0"),
        ("assistant", "<think>\nhm\n</think>\n\n 2 "),
        ("user", '\u4e2d\u6587 "q" \U0001f642'),
    ],
    [("user", "a"), ("assistant", "b"), ("user", "c"), ("assistant", "")],
    [("assistant", "first"), ("user", "{{ 1 }} {% x %}")],
]
SPECIAL_TOKENS = {"bos_token": "<s>", "eos_token": "</s>"}


def test_chat_templates_give_the_same_bytes(programs: Path, demo: Path) -> None:
    templates = {path.name: path.read_text() for path in sorted((ROOT / "tests" / "chat_templates").glob("*.jinja"))}
    cases = [(name, chat, prompt) for name in templates for chat in CHATS for prompt in (True, False)]
    requests = [
        {
            "template": templates[name],
            "special_tokens": SPECIAL_TOKENS,
            "messages": [{"role": role, "content": content} for role, content in chat],
            "add_generation_prompt": prompt,
        }
        for name, chat, prompt in cases
    ]
    assert len(templates) >= 7
    for (name, chat, prompt), request, answer in zip(cases, requests, replay(programs, demo, requests), strict=True):
        assert answer == rendered(templates[name], request["messages"], prompt), (name, chat)


def test_marks_of_templates_are_those_of_python(programs: Path, demo: Path) -> None:
    probe = [{"role": "user", "content": PROBE}]
    special = ["<s>", "</s>", "<|im_start|>", "<|im_end|>"]
    requests = []
    for path in sorted((ROOT / "tests" / "chat_templates").glob("*.jinja")):
        prompt = rendered(path.read_text(), probe, True)
        if isinstance(prompt, str):
            texts = ("Hello", "\n" + prompt, prompt.removeprefix("<s>"), prompt[len(prompt) // 2 :], "a </s>", "ä?")
            requests += [{"rendered": prompt, "text": text, "special_tokens": special} for text in texts]
    answers = list(replay(programs, demo, requests))
    assert answers == [
        template_marker(request["text"], request["special_tokens"], request["rendered"]) for request in requests
    ]
    assert len(set(answers)) > 4


def rendered(template: str, messages: list[dict[str, str]], add_generation_prompt: bool) -> Any:
    """The text that Python renders for the messages, or the error that it raises."""
    try:
        return ChatTemplate(template, SPECIAL_TOKENS).render(messages, add_generation_prompt=add_generation_prompt)
    except GenerationError as error:
        hint = "render the prompt elsewhere, and use encode and generate_ids"
        return {"error": str(error), "hint": hint}


@pytest.mark.parametrize(
    ("template", "words"),
    [
        ("{% macro f(x) %}{{ f(x) }}{% endmacro %}{{ f(1) }}", "line 1: the tag `macro` is not known here"),
        ("{{ cycler }}{{ lipsum() }}", "the function `lipsum` is not known here"),
        ("{{ 'a' | attr('b') }}", "filter `attr` is not known here"),
        ("{{ 'x'.format(1) }}", "method `format` is not known here"),
        ("{% for a in range(100000000) %}{% endfor %}", "too many steps"),
        (
            "{% set ns = namespace(t='xxxxxxxx') %}{% for a in range(60) %}{% set ns.t = ns.t + ns.t %}{% endfor %}",
            "too much",
        ),
        (
            "{% set ns = namespace(t=[]) %}{% for a in range(60) %}{% set ns.t = [ns.t, ns.t] %}{% endfor %}",
            "too many steps",
        ),
        ("{{ " + "(" * 100000 + "1" + ")" * 100000 + " }}", "nested too deeply"),
        ("{% if true %}" * 1000, "nested too deeply"),
        ("{{ 'a", "line 1: a text does not end"),
        ("{{ 1", "line 1: a tag does not end"),
        ("{% if true %}", "endif is missing"),
        ("{{ 9223372036854775807 * 9 }}", "too large"),
        ("{{ messages.content.x }}", "undefined"),
    ],
)
def test_chat_templates_that_are_refused(programs: Path, demo: Path, template: str, words: str) -> None:
    request = {
        "template": template,
        "special_tokens": {},
        "messages": [{"role": "user", "content": "a"}],
        "add_generation_prompt": True,
    }
    (answer,) = replay(programs, demo, [request])
    assert words in answer["error"]


def test_chat(programs: Path, demo: Path) -> None:
    messages = [{"role": "user", "content": "How do I open a file?"}]
    (answer,) = replay(programs, demo, [{"messages": messages, "options": {"max_new_tokens": 16}}])
    with LLM(demo, exact=True, threads=1) as llm:
        assert answer["rendered"] == llm.tokenizer.render_chat(messages)
        expected = llm.chat(messages, max_new_tokens=16)
    assert (answer["text"], answer["token_ids"]) == (expected.text, list(expected.token_ids))
    assert answer["prompt_tokens"] == expected.prompt_tokens


def test_errors_threads_cancellation_and_c(programs: Path, demo: Path) -> None:
    done = run(programs / "tests" / "ovround-pipeline", demo)
    assert done.returncode == 0, done.stderr


def test_a_step_allocates_nothing_and_memory_that_ends_is_an_error(programs: Path, demo: Path) -> None:
    program = programs / "tests" / "ovround-allocations"
    if not program.exists():
        pytest.skip("the linker's --wrap is needed")
    done = run(program, demo)
    assert done.returncode == 0, done.stderr


@pytest.fixture(scope="module")
def onnx_demo(demo: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An ONNX folder, with the tokenizer's graphs beside it."""
    options = ConvertOptions(formats=("onnx",), group_size=64, recipe="rtn")
    folder = convert("demo", tmp_path_factory.mktemp("onnx") / "out", options).folders[0]
    for path in demo.glob("openvino_*tokenizer.*"):
        shutil.copy(path, folder)
    return folder


def test_onnx_folders_give_the_tokens_of_python(programs: Path, onnx_demo: Path) -> None:
    prompts = [*PROMPTS, "Return the number of " * 60]  # longer than one piece of prefill
    requests = [{"prompt": prompt, "options": options} for options in OPTIONS for prompt in prompts]
    answers = replay(programs, onnx_demo, [*requests, {"prompts": PROMPTS, "options": OPTIONS[1]}])
    with LLM(onnx_demo, exact=True, threads=1) as llm:
        for request in requests:
            expected = llm.generate(request["prompt"], **keywords(request["options"]))
            assert next(answers)["token_ids"] == list(expected.token_ids), request
        expected_batch = llm.generate(PROMPTS, **keywords(OPTIONS[1]))
        assert [answer["token_ids"] for answer in next(answers)] == [
            list(expected.token_ids) for expected in expected_batch
        ]


def test_program(programs: Path, demo: Path) -> None:
    program = programs / "ovround-run"
    done = run(program, demo, "Return the", "--raw", "--max-new-tokens", 8, "--exact", "--json")
    answer = json.loads(done.stdout)
    assert answer.pop("prompt_format") == "raw"
    assert answer.pop("kernel") == "engine"
    with LLM(demo, exact=True) as llm:
        expected = llm.generate("Return the", max_new_tokens=8)
    assert list(answer) == sorted(field.name for field in fields(expected))
    assert list(answer["usage"]) == sorted(field.name for field in fields(expected.usage))
    assert list(answer["timings"]) == sorted(field.name for field in fields(expected.timings))
    assert (answer["text"], answer["token_ids"]) == (expected.text, list(expected.token_ids))
    assert (
        run(program, demo, "-", "--raw", "--max-new-tokens=8", "--exact", input="Return the").stdout
        == f"{expected.text}\n"
    )
    measured = json.loads(run(program, "--bench", demo, "--prompt-tokens", 8, "--new-tokens", 4, "--json").stdout)
    assert list(measured) == sorted(field.name for field in fields(BenchResult))
    for arguments, status, words in (
        (["/nowhere", "a"], 1, "error: `/nowhere` does not exist"),
        ([demo, "a", "--device", "NONE"], 1, "hint: available for OpenVINO: CPU"),
        ([demo, "a", "--temperature", "warm"], 2, "--temperature is `warm`"),
        ([demo, "a", "--top-p", "0"], 2, "top_p is 0; a number above 0 to 1 is needed"),
        ([demo, "a", "--raw", "--system", "b"], 2, "--raw and --system-prompt are both given"),
        ([demo, "a", "--nothing"], 2, "there is no option `--nothing`"),
        ([demo], 2, "FOLDER and PROMPT are needed"),
    ):
        failed = run(program, *arguments)
        assert (failed.returncode, failed.stdout) == (status, "")
        assert words in failed.stderr
