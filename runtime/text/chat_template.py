"""Chat templates: Jinja2 in a sandbox and in a process of its own, set up as transformers sets it up: the same prompt.

A template is code from whoever made the model. The sandbox keeps it from Python's internals and from changing what it is
given; the process bounds its time and its memory (`template_process.py`). A template that reaches a bound is refused, and
the next chat finds a new process.
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
_RESERVED = ("messages", "add_generation_prompt", "raise_exception", "strftime_now")
_PROGRAM = "import runpy, sys; sys.path[:0] = sys.argv[2:]; runpy.run_path(sys.argv[1], run_name='__main__')"


class ChatTemplate:
    """One template and the special tokens that it may name. Threads wait for one another."""

    def __init__(self, source: str, special_tokens: Mapping[str, str]) -> None:
        """Raises ArtifactError for a template that cannot be compiled within the limits."""
        if len(source) > LIMITS.template_characters:
            raise ArtifactError(
                f"the chat template has {len(source)} characters; {LIMITS.template_characters} are allowed"
            )
        self._first = {
            "template": source, "special_tokens": dict(special_tokens), "cpu_s": LIMITS.template_cpu_s,
            "memory_bytes": LIMITS.template_memory_bytes, "characters": LIMITS.prompt_characters,
        }  # fmt: skip
        self._lock = threading.Lock()
        self._process: _Process | None = None
        with self._lock:
            self._started()

    def render(
        self,
        messages: Sequence[Message],
        *,
        add_generation_prompt: bool = True,
        variables: Mapping[str, Any] | None = None,
    ) -> str:
        """The prompt for `messages`, each with `role` and usually `content`; a key whose value is None is left out.

        `variables` are the template's own (`tools`, `enable_thinking`, ...). Raises UsageError for messages that are
        none, GenerationError with the template's words when it refuses them, or when it takes too much time or memory.
        """
        own = dict(variables or {})
        taken = [name for name in own if name in _RESERVED]
        if taken:
            raise UsageError(f"template variable `{taken[0]}` is set by the chat itself", hint="choose another name")
        try:
            chat = {"messages": _checked(messages), "add_generation_prompt": add_generation_prompt}
            line = json.dumps({"tools": None, "documents": None, **_plain(own), **chat})
        except RecursionError:
            raise UsageError("a chat is nested too deeply") from None
        with self._lock:
            answer = self._started().ask(line)
            if answer is None:
                self._process = None
                raise GenerationError(
                    f"the chat template takes more than {LIMITS.template_cpu_s:g} s or "
                    f"{LIMITS.template_memory_bytes >> 20} MB for these messages"
                )
        if "refused" in answer:
            raise GenerationError(f"the chat template refuses these messages: {answer['refused']}")
        return answer["text"]

    def _started(self) -> _Process:
        if self._process is None or self._process.has_ended():
            process = _Process()
            answer = process.ask(json.dumps(self._first))
            if answer is None or "broken" in answer:
                process.end()
                reason = "compiling it takes too much time or memory" if answer is None else answer["broken"]
                raise ArtifactError(f"the chat template cannot be read: {reason}")
            self._process = process
        return self._process


class _Process:
    """`template_process.py`, one line out for each line in."""

    def __init__(self) -> None:
        libraries = {str(Path(module.__file__).parent.parent) for module in (jinja2, markupsafe) if module.__file__}
        words = [interpreter(), "-I", "-S", "-c", _PROGRAM, str(template_process.__file__), *sorted(libraries)]
        self._process = subprocess.Popen(
            words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
        )
        self._owner = os.getpid()
        self.end = weakref.finalize(self, _end, self._process, self._owner)

    def has_ended(self) -> bool:
        """Whether it cannot be asked: it ended, or belongs to the process that this one was forked from."""
        return self._owner != os.getpid() or self._process.poll() is not None

    def ask(self, line: str) -> dict[str, str] | None:
        """Its answer; None when it ended, was ended by a limit, or took too long."""
        stdin, stdout = self._process.stdin, self._process.stdout
        assert stdin is not None  # noqa: S101  # for the type checker
        assert stdout is not None  # noqa: S101
        late = threading.Timer(LIMITS.template_wait_s, self._process.kill)
        late.daemon = True
        late.start()
        try:
            stdin.write(line.encode() + b"\n")
            stdin.flush()
            found = stdout.readline()
        except OSError:
            found = b""
        finally:
            late.cancel()
        if not found.endswith(b"\n"):
            self.end()
            return None
        answer: dict[str, str] = json.loads(found)
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
                continue  # what was not written goes with the process
    process.wait()


def read_template(folder: Path) -> str | None:
    """The template of a folder or None: of chat_template.jinja, tokenizer_config.json, then chat_template.json."""
    path = folder / "chat_template.jinja"
    if path.is_file():
        try:
            return path.read_text(encoding="utf-8")
        except (OSError, ValueError) as error:
            raise ArtifactError(f"`{path}` cannot be read: {error}") from error
    for name in ("tokenizer_config.json", "chat_template.json"):
        template = read_object(folder / name, optional=True).get("chat_template")
        if isinstance(template, list):
            named = [entry for entry in template if isinstance(entry, dict)]
            template = next((entry.get("template") for entry in named if entry.get("name") == "default"), None)
        if isinstance(template, str):
            return template
    return None


def _checked(messages: Sequence[Message]) -> list[dict[str, Any]]:
    if isinstance(messages, (str, bytes)) or not isinstance(messages, Sequence) or not messages:
        raise UsageError(f"messages is {messages!r}; a list of at least one message is needed")
    for message in messages:
        if not isinstance(message, Mapping) or not isinstance(message.get("role"), str):
            raise UsageError(
                f"message {message!r} has no role", hint='a message is {"role": "user", "content": "..."} or the like'
            )
    return [{key: _plain(value) for key, value in message.items() if value is not None} for message in messages]


def _plain(value: Any) -> Any:
    """`value` rebuilt from JSON's types, so that a template never holds an object with methods that do things."""
    if value is None or type(value) in (str, int, float, bool):
        return value
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    raise UsageError(f"a chat holds a {type(value).__name__}; text, numbers, lists and mappings are allowed")
