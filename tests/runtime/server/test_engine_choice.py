"""The engine is chosen when the server starts: each request field works, or is refused with the start option that serves it."""

from __future__ import annotations

import importlib.util
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ovround.errors import ArtifactError, EngineError, MissingExtraError, UsageError
from ovround.runtime.server import engine_choice, engine_process
from ovround.runtime.server.engine_choice import choose_engine
from ovround.runtime.server.field_support import SINGLE_ONLY_FIELDS
from ovround.runtime.server.launcher import open_engine_client
from ovround.runtime.server.protocol import ChatRequest, CompletionRequest
from ovround.runtime.server.settings import EngineOptions, ServerSettings

pytest.importorskip("openvino_genai")

COMPLETION = {"prompt": "The with statement is used to", "max_tokens": 6}
CHAT = {"messages": [{"role": "user", "content": "How do I open a file?"}], "max_tokens": 6}
_TOOLS = [{"type": "function", "function": {"name": "f", "parameters": {"type": "object", "properties": {}}}}]
_SCHEMA = {"type": "object", "properties": {"a": {"enum": [1]}}, "required": ["a"], "additionalProperties": False}
SHARED: dict[str, Any] = {
    "model": "demo", "stream": False, "stream_options": {"include_usage": True}, "n": 2, "temperature": 0.5, "top_p": 0.9,
    "top_k": 5, "min_p": 0.1, "repetition_penalty": 1.2, "presence_penalty": 0.5, "frequency_penalty": 0.5, "seed": 7,
    "stop": ["e"], "stop_token_ids": [5], "ignore_eos": True, "logit_bias": {"5": 2},
    "response_format": {"type": "json_object"}, "guided_regex": "[ab]{3}", "guided_grammar": 'start: "a" | "b"',
    "guided_json": _SCHEMA, "user": "u", "store": False, "metadata": {"a": "b"}, "service_tier": "auto",
    "safety_identifier": "s", "prompt_cache_key": "k", "parallel_tool_calls": True,
}  # fmt: skip
COMPLETION_ONLY: dict[str, Any] = {
    "prompt": "Return the", "max_tokens": 3, "logprobs": 2, "echo": True, "suffix": None, "best_of": 1,
}  # fmt: skip
CHAT_ONLY: dict[str, Any] = {
    "messages": [{"role": "user", "content": "hi"}], "max_tokens": 3, "max_completion_tokens": 3, "logprobs": True,
    "top_logprobs": 2, "tools": _TOOLS, "tool_choice": "required", "chat_template_kwargs": {"enable_thinking": False},
    "reasoning_effort": "low", "verbosity": "low",
}  # fmt: skip
COMPANIONS: dict[str, dict[str, Any]] = {
    "seed": {"temperature": 0.5}, "top_logprobs": {"logprobs": True}, "tool_choice": {"tools": _TOOLS},
    "stream_options": {"stream": True}, "echo": {"max_tokens": 0},
}  # fmt: skip
"""The fields without which another field has no effect, or is refused."""
NEUTRAL: dict[str, Any] = {
    "logprobs": None, "logit_bias": {}, "response_format": {"type": "text"}, "guided_regex": None,
    "guided_grammar": None, "guided_json": None, "tool_choice": "auto",
}  # fmt: skip
"""Values of the fields of SINGLE_ONLY_FIELDS that every engine serves."""
FIELDS = [("/v1/completions", name, value) for name, value in (SHARED | COMPLETION_ONLY).items()]
FIELDS += [("/v1/chat/completions", name, value) for name, value in (SHARED | CHAT_ONLY).items()]


@pytest.fixture(scope="module")
def batching(serve_folder: Any, demo_folders: dict[str, Path]) -> Iterator[Any]:
    with serve_folder(demo_folders["openvino"]) as served:
        yield served


@pytest.fixture(scope="module")
def single(serve_folder: Any, demo_folders: dict[str, Path]) -> Iterator[Any]:
    with serve_folder(demo_folders["openvino"], engine="single") as served:
        yield served


def body_with(path: str, name: str, value: Any) -> dict[str, Any]:
    return {**(CHAT if "chat" in path else COMPLETION), **COMPANIONS.get(name, {}), name: value}


def answer_texts(reply: Any) -> list[str]:
    return [choice["message"]["content"] if "message" in choice else choice["text"] for choice in reply["choices"]]


def test_the_table_has_every_field() -> None:
    assert set(SHARED | COMPLETION_ONLY) == set(CompletionRequest.model_fields)
    assert set(SHARED | CHAT_ONLY) == set(ChatRequest.model_fields)
    assert set(NEUTRAL) == set(SINGLE_ONLY_FIELDS)


@pytest.mark.parametrize(("path", "name", "value"), FIELDS, ids=[f"{path[4:8]} {name}" for path, name, _ in FIELDS])
def test_each_field_works_or_names_the_start_option(
    batching: Any, single: Any, path: str, name: str, value: Any
) -> None:
    body = body_with(path, name, value)
    status, expected, _ = single.request("POST", path, body)
    assert status == 200, expected
    status, reply, _ = batching.request("POST", path, body)
    refused = "logprobs" if name == "top_logprobs" else name
    if refused in SINGLE_ONLY_FIELDS:
        assert (status, reply["error"]["param"]) == (400, refused)
        assert (reply["error"]["type"], reply["error"]["code"]) == ("invalid_request_error", "unsupported_parameter")
        assert f"`{refused}`" in reply["error"]["message"]
        assert "start the server with `--engine single`" in reply["error"]["message"]
        return
    assert status == 200, reply
    if isinstance(reply, dict) and name not in (
        "temperature",
        "seed",
    ):  # events are compared in test_openai, random texts nowhere
        assert answer_texts(reply) == answer_texts(expected)


@pytest.mark.parametrize("name", NEUTRAL)
@pytest.mark.parametrize("path", ["/v1/completions", "/v1/chat/completions"])
def test_the_neutral_value_of_a_field_is_served(batching: Any, path: str, name: str) -> None:
    body = {**(CHAT if "chat" in path else COMPLETION), name: NEUTRAL[name]}
    if name == "tool_choice":
        if path == "/v1/completions":
            return
        body["tools"] = _TOOLS
    status, reply, _ = batching.request("POST", path, body)
    assert status == 200, reply


def test_a_named_tool_is_refused_too(batching: Any) -> None:
    choice = {"type": "function", "function": {"name": "f"}}
    status, reply, _ = batching.request(
        "POST", "/v1/chat/completions", {**CHAT, "tools": _TOOLS, "tool_choice": choice, "stream": True}
    )
    assert (status, reply["error"]["param"]) == (400, "tool_choice")


@pytest.mark.parametrize("engine", ["batching", "single"])
def test_one_server_loads_one_copy(
    serve_folder: Any, demo_folders: dict[str, Path], engine: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only the engine's processes load a model: one is started, and requests of every kind start no other."""
    started: list[Any] = []
    popen = subprocess.Popen

    def counted(command: list[str], **options: Any) -> Any:
        process = popen(command, **options)
        if any("engine_core" in word for word in command):  # chat templates have a process too
            started.append(process)
        return process

    monkeypatch.setattr(engine_process.subprocess, "Popen", counted)
    with serve_folder(demo_folders["openvino"], engine=engine) as served:
        for path, name, value in FIELDS:
            assert served.request("POST", path, body_with(path, name, value))[0] in (200, 400)
        assert [process.pid for process in started] == [served.engine_pid()]
        assert served.engine_client.restarts() == 0


@pytest.mark.parametrize(
    ("options", "name", "reason"),
    [
        (EngineOptions(), "batching", "OpenVINO folder"),
        (EngineOptions("batching"), "batching", "--engine batching"),
        (EngineOptions("single"), "single", "--engine single"),
        (EngineOptions(prompt_lookup=True), "single", "speculative"),
        (EngineOptions(draft_model=Path("draft")), "single", "speculative"),
        (EngineOptions(kernel="native"), "single", "kernel is `native`"),
        (EngineOptions(device="NPU"), "single", "NPU"),
        (EngineOptions(device="hpu-emulated"), "single", "hpu-emulated"),
    ],
)
def test_the_choice_and_its_reason(
    demo_folders: dict[str, Path], options: EngineOptions, name: str, reason: str
) -> None:
    choice = choose_engine(demo_folders["openvino"], options)
    assert choice.name == name
    assert reason in choice.reason
    if options.engine == "auto" and name == "single":
        refused = EngineOptions(
            "batching", options.device, prompt_lookup=options.prompt_lookup, draft_model=options.draft_model,
            kernel=options.kernel,
        )  # fmt: skip
        with pytest.raises(UsageError, match="the batching engine cannot run this") as caught:
            choose_engine(demo_folders["openvino"], refused)
        assert caught.value.hint == "start with `--engine single`"


def test_other_folders(demo_folders: dict[str, Path], tmp_path: Path) -> None:
    assert choose_engine(demo_folders["onnx"], EngineOptions()).name == "single"
    with pytest.raises(UsageError, match="no OpenVINO folder"):
        choose_engine(demo_folders["onnx"], EngineOptions("batching"))
    for engine in ("auto", "batching", "single"):
        with pytest.raises(ArtifactError, match="does not exist"):
            choose_engine(tmp_path / "none", EngineOptions(engine))
    with pytest.raises(UsageError, match="engine is `fast`; allowed: auto, batching, single"):
        EngineOptions("fast")


def test_without_openvino_genai(demo_folders: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    choice = choose_engine(demo_folders["openvino"], EngineOptions())
    assert (choice.name, choice.reason) == ("single", "openvino_genai is not installed")
    with pytest.raises(MissingExtraError, match="openvino_genai"):
        choose_engine(demo_folders["openvino"], EngineOptions("batching"))
    assert choose_engine(demo_folders["onnx"], EngineOptions()).name == "single"


def test_whose_kernels(demo_folders: dict[str, Path]) -> None:
    """The batching engine has OpenVINO's kernels; the single engine takes the option."""
    from ovround.runtime.engines.native.operator import library_path

    folder, settings = demo_folders["openvino"], ServerSettings("x")
    with pytest.raises(UsageError, match="kernel is `native`, and openvino_genai uses OpenVINO's kernels"):
        open_engine_client(folder, settings, EngineOptions("batching", kernel="native"))
    with pytest.raises(UsageError, match="kernel is `fast`; allowed: auto, native, engine"):
        open_engine_client(folder, settings, EngineOptions(kernel="fast"))
    options = EngineOptions("single", kernel="native")
    if library_path() is None:
        with pytest.raises(EngineError, match="kernel is `native`, yet the native operator is not installed"):
            open_engine_client(folder, settings, options)
    else:
        open_engine_client(folder, settings, options).close()


def test_a_folder_for_the_native_operator(demo_folders: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    """The batching engine gets the library; without one, the single engine expands the weights."""
    from ovround.runtime.engines.native import operator

    library: list[Path | None] = [Path("library.so")]
    monkeypatch.setattr(operator, "needs_operator", lambda path: True)
    monkeypatch.setattr(operator, "usable_library", lambda path, device, kernel: library[0])
    choice = choose_engine(demo_folders["openvino"], EngineOptions())
    assert (choice.name, choice.extension) == ("batching", Path("library.so"))
    library[0] = None
    choice = choose_engine(demo_folders["openvino"], EngineOptions())
    assert (choice.name, choice.extension) == ("single", None)
    assert "expanded" in choice.reason
    assert engine_choice.choose_engine(demo_folders["openvino"], EngineOptions("single")).name == "single"
