"""Chat templates: Jinja2 with transformers' settings, in a sandbox within a process of its own.

A template is foreign code. The sandbox hides Python's internals from it and keeps its input unchanged; the process bounds its
time and memory (`template_process.py`). A template that exceeds a bound is refused, and the next chat gets a new process.
"""

from __future__ import annotations

import json
import os
import subprocess
import threading
import weakref
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jinja2
import markupsafe

from ovround.errors import ArtifactError, GenerationError, UsageError
from ovround.limits import LIMITS
from ovround.runtime.interpreter import interpreter
from ovround.runtime.json_object import read_object
from ovround.runtime.text import template_process

Message = Mapping[str, Any]
DEFAULT, TOOL_USE = "default", "tool_use"
_RESERVED = ("messages", "add_generation_prompt", "raise_exception", "strftime_now")
_PROGRAM = "import runpy, sys; sys.path[:0] = sys.argv[2:]; runpy.run_path(sys.argv[1], run_name='__main__')"


class ToolsNotShownError(GenerationError):
    """A chat has tools, and the model's template does not show them."""


class ChatTemplate:
    """One template and its special tokens. Threads wait for one another."""

    def __init__(self, source: str, special_tokens: Mapping[str, str]) -> None:
        """Raises ArtifactError for a template that cannot be compiled within the limits."""
        if len(source) > LIMITS.template_characters:
            raise ArtifactError(
                f"the chat template has {len(source)} characters; {LIMITS.template_characters} are allowed"
            )
        self.source = source
        self._setup = {
            "template": source, "special_tokens": dict(special_tokens), "cpu_s": LIMITS.template_cpu_s,
            "memory_bytes": LIMITS.template_memory_bytes, "characters": LIMITS.prompt_characters,
        }  # fmt: skip
        self._lock = threading.Lock()
        self._process: _Process | None = None
        with self._lock:
            self._running_process()

    def render(
        self,
        messages: Sequence[Message],
        *,
        add_generation_prompt: bool = True,
        variables: Mapping[str, Any] | None = None,
    ) -> str:
        """The prompt for `messages`, each with `role` and usually `content`.

        Keys with the value None are left out, as in transformers. Where the template then refuses the messages or loses calls of
        tools, a content of None stays None, by which some templates know a message that only calls tools, or becomes an empty text.

        `variables` are the template's own (`tools`, `enable_thinking`, ...). Raises UsageError for invalid messages, and
        GenerationError if the template refuses them or exceeds its time or memory.
        """
        own = dict(variables or {})
        taken = [name for name in own if name in _RESERVED]
        if taken:
            raise UsageError(f"template variable `{taken[0]}` is set by the chat itself", hint="choose another name")
        try:
            chat, said = {"tools": None, "documents": None, **_plain(own)}, _checked(messages)
            chat["add_generation_prompt"] = add_generation_prompt
            answer = self._ask_with_contents(chat, said)
            if _lost(said, answer):  # templates of multimodal models may read lists of parts alone
                in_parts = self._ask(json.dumps({**chat, "messages": _in_parts(said)}))
                answer = answer if _lost(said, in_parts) else in_parts
        except RecursionError:
            raise UsageError("a chat is nested too deeply") from None
        if "refused" in answer:
            raise GenerationError(f"the chat template refuses these messages: {answer['refused']}")
        return answer["text"]

    def _ask_with_contents(self, chat: dict[str, Any], said: list[dict[str, Any]]) -> dict[str, str]:
        """The answer for contents of None left out, kept, or empty: the first that shows the most calls and writes no `None`."""
        empty = [message.get("content", "") is None for message in said]
        left_out = [{key: value for key, value in message.items() if value is not None} for message in said]
        answer = self._ask(json.dumps({**chat, "messages": left_out}))
        if not any(empty):
            return answer
        filled = [
            {**message, "content": ""} if is_empty else message for message, is_empty in zip(said, empty, strict=True)
        ]
        answers = [answer, *(self._ask(json.dumps({**chat, "messages": form})) for form in (said, filled))]
        names = _called_names(said)
        return max(answers, key=lambda answer: _shown(answer, names))

    def _ask(self, line: str) -> dict[str, str]:
        """The answer of the template's process: `text`, or `refused`."""
        with self._lock:
            answer = self._running_process().ask(line)
            if answer is None:
                self._process = None
                raise GenerationError(
                    f"the chat template takes more than {LIMITS.template_cpu_s:g} s or "
                    f"{LIMITS.template_memory_bytes >> 20} MB for these messages"
                )
            return answer

    def _running_process(self) -> _Process:
        if self._process is None or self._process.has_ended():
            process = _Process()
            answer = process.ask(json.dumps(self._setup))
            if answer is None or "broken" in answer:
                process.end()
                reason = "compiling it takes too much time or memory" if answer is None else answer["broken"]
                raise ArtifactError(f"the chat template cannot be read: {reason}")
            self._process = process
        return self._process


class _Process:
    """`template_process.py`, with one line of output per line of input."""

    def __init__(self) -> None:
        libraries = {str(Path(module.__file__).parent.parent) for module in (jinja2, markupsafe) if module.__file__}
        command = [interpreter(), "-I", "-S", "-c", _PROGRAM, str(template_process.__file__), *sorted(libraries)]
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
        )
        self._owner = os.getpid()
        self.end = weakref.finalize(self, _end, self._process, self._owner)

    def has_ended(self) -> bool:
        """Whether the process has ended, or belongs to the parent that this process was forked from."""
        return self._owner != os.getpid() or self._process.poll() is not None

    def ask(self, line: str) -> dict[str, str] | None:
        """The answer; None if the process ended, or exceeded a limit."""
        stdin, stdout = self._process.stdin, self._process.stdout
        assert stdin is not None  # noqa: S101  # for the type checker
        assert stdout is not None  # noqa: S101
        late = threading.Timer(LIMITS.template_wait_s, self._process.kill)
        late.daemon = True
        late.start()
        try:
            stdin.write(line.encode() + b"\n")
            stdin.flush()
            reply = stdout.readline()
        except OSError:
            reply = b""
        finally:
            late.cancel()
        if not reply.endswith(b"\n"):
            self.end()
            return None
        answer: dict[str, str] = json.loads(reply)
        return answer


def _end(process: subprocess.Popen[bytes], owner: int) -> None:
    if owner != os.getpid():
        return
    process.kill()
    for pipe in (process.stdin, process.stdout):
        if pipe is not None:
            try:
                pipe.close()
            except OSError:
                continue  # unwritten input is lost with the process
    process.wait()


def read_templates(folder: Path) -> dict[str, str]:
    """The templates of a folder by name, most have `default` alone; empty without any.

    As in transformers, chat_template.jinja and those of additional_chat_templates/ rule over tokenizer_config.json; last comes
    chat_template.json.
    """
    files = {path.stem: path for path in sorted((folder / "additional_chat_templates").glob("*.jinja"))}
    if (folder / "chat_template.jinja").is_file():
        files[DEFAULT] = folder / "chat_template.jinja"
    if files:
        return {name: _read_text(path) for name, path in files.items()}
    for name in ("tokenizer_config.json", "chat_template.json"):
        template = read_object(folder / name, optional=True).get("chat_template")
        entries = template if isinstance(template, list) else [{"name": DEFAULT, "template": template}]
        pairs = [(entry.get("name"), entry.get("template")) for entry in entries if isinstance(entry, dict)]
        named = {name: text for name, text in pairs if isinstance(name, str) and isinstance(text, str)}
        if named:
            return named
    return {}


def read_template(folder: Path) -> str | None:
    """The template of a folder for chats without tools; None without one."""
    return read_templates(folder).get(DEFAULT)


def template_name(templates: Mapping[str, str], tools: object) -> str:
    """The name of the template for a chat with `tools`, or None for none, as transformers chooses.

    Raises GenerationError where several are there and none is the default.
    """
    if tools is not None and TOOL_USE in templates:
        return TOOL_USE
    if DEFAULT in templates:
        return DEFAULT
    raise GenerationError(
        f"the model has the chat templates {', '.join(sorted(templates))}, and no default one",
        hint="add chat_template.jinja to its folder"
        + (", or give tools, which have a template" if TOOL_USE in templates else ""),
    )


def _read_text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        raise ArtifactError(f"`{path}` cannot be read: {error}") from error


def _called_names(messages: list[dict[str, Any]]) -> set[str]:
    """The names of the tools that the messages call."""
    calls = [call for message in messages for call in message.get("tool_calls") or [] if isinstance(call, dict)]
    functions = [call.get("function", call) for call in calls]
    names = [function.get("name") for function in functions if isinstance(function, dict)]
    return {name for name in names if isinstance(name, str)}


def _shown(answer: dict[str, str], names: set[str]) -> tuple[bool, int, int]:
    """How good a rendering is: it is none without a text, writes no `None`, and has the called tools' names."""
    text = answer.get("text", "")
    return "text" in answer, -text.count("None"), sum(text.count(name) for name in names)


def _lost(messages: list[dict[str, Any]], answer: dict[str, str]) -> bool:
    """Whether the answer is without what the last message of the user says in a string."""
    contents = [message.get("content") for message in messages if message["role"] == "user"]
    last = contents[-1] if contents else None
    return isinstance(last, str) and last.strip() not in answer.get("text", "")


def _in_parts(messages: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The messages with each string as a list of one part, without contents of None."""
    return [
        {**message, "content": [{"type": "text", "text": message["content"]}]}
        if isinstance(message.get("content"), str)
        else {key: value for key, value in message.items() if value is not None}
        for message in messages
    ]


def _checked(messages: Sequence[Message]) -> list[dict[str, Any]]:
    if isinstance(messages, (str, bytes)) or not isinstance(messages, Sequence) or not messages:
        raise UsageError(f"messages is {messages!r}; a list of at least one message is needed")
    for message in messages:
        if not isinstance(message, Mapping) or not isinstance(message.get("role"), str):
            raise UsageError(
                f"message {message!r} has no role", hint='a message is {"role": "user", "content": "..."} or the like'
            )
    return [
        {key: _plain(value) for key, value in message.items() if value is not None or key == "content"}
        for message in messages
    ]


def _plain(value: Any) -> Any:
    """A copy of `value` from JSON's types, so that a template gets no objects with methods."""
    if value is None or type(value) in (str, int, float, bool):
        return value
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    raise UsageError(f"a chat holds a {type(value).__name__}; text, numbers, lists and mappings are allowed")
