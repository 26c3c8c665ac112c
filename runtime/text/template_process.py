"""A program that renders one chat template, one request per line, until its input ends. `chat_template.py` starts it.

A template is a foreign program, and Jinja's sandbox bounds neither its time nor its memory: a dozen nested loops or thirty
doublings of a text are enough to exhaust them. The system bounds them here. SIGPROF ends the process after too much CPU time,
and RLIMIT_AS bounds its address space, in C functions too.

Lines are JSON. The first has {"template", "special_tokens", "cpu_s", "memory_bytes", "characters"}, the others have the
template's variables. The answer to a line is {"text"} or {"refused"}; for a template that cannot be compiled, {"broken"}.

It imports nothing of ovround, so that it starts in a tenth of a second.
"""

from __future__ import annotations

import contextlib
import json
import signal
import sys
from datetime import datetime
from typing import Any

from jinja2 import Template, TemplateError, nodes
from jinja2.ext import Extension, loopcontrols
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment

_REFUSALS = (TemplateError, TypeError, ValueError, ArithmeticError, LookupError, RecursionError, AttributeError)


class _GenerationBlock(Extension):
    """`{% generation %} ... {% endgeneration %}` marks an answer for training; only its content is rendered here."""

    tags = {"generation"}  # noqa: RUF012  # as jinja2 declares it

    def parse(self, parser: Parser) -> list[nodes.Node]:
        next(parser.stream)
        return list(parser.parse_statements(("name:endgeneration",), drop_needle=True))


def _to_json(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    """JSON without HTML escapes, which Jinja2's own filter has and chat templates do not expect."""
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


def _raise_exception(message: str) -> None:
    raise TemplateError(message)


def _strftime_now(pattern: str) -> str:
    return datetime.now().strftime(pattern)


def compiled(source: str) -> Template:
    """The template with transformers' settings; raises TemplateError."""
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[_GenerationBlock, loopcontrols]
    )
    environment.filters["tojson"] = _to_json
    environment.globals["raise_exception"] = _raise_exception
    environment.globals["strftime_now"] = _strftime_now
    return environment.from_string(source)


def _bound(memory_bytes: int) -> None:
    with contextlib.suppress(ImportError):  # Windows has no such limits; `chat_template` ends this process after a time
        import resource

        resource.setrlimit(resource.RLIMIT_AS, (memory_bytes, memory_bytes))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def _allow(cpu_s: float) -> None:
    """Limit the CPU time from now on; 0: no limit."""
    if hasattr(signal, "setitimer"):
        signal.setitimer(signal.ITIMER_PROF, cpu_s)


def _answer(template: Template, variables: dict[str, Any], characters: int) -> dict[str, str]:
    try:
        text = template.render(**variables)
    except _REFUSALS as error:
        return {"refused": str(error)[:1000]}
    if len(text) > characters:
        return {"refused": f"it writes {len(text)} characters; {characters} are allowed"}
    return {"text": text}


def main() -> None:
    """Answer each line of input."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is handled by the parent process
    setup = json.loads(sys.stdin.buffer.readline())
    _bound(setup["memory_bytes"])
    _allow(setup["cpu_s"])
    try:
        template = compiled(setup["template"])
    except (*_REFUSALS, SyntaxError, MemoryError) as error:
        _write({"broken": str(error)[:1000]})
        return
    _allow(0)
    _write({"text": ""})
    for line in sys.stdin.buffer:
        _allow(setup["cpu_s"])
        try:
            answer = _answer(template, {**setup["special_tokens"], **json.loads(line)}, setup["characters"])
        except MemoryError:
            answer = {"refused": f"it needs more than {setup['memory_bytes'] >> 20} MB of memory"}
        _allow(0)
        _write(answer)


def _write(answer: dict[str, str]) -> None:
    sys.stdout.buffer.write(json.dumps(answer).encode() + b"\n")
    sys.stdout.buffer.flush()


if __name__ == "__main__":
    main()
