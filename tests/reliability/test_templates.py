"""Hostile chat templates are refused within about a second and 256 MB, and the next chat is answered."""

from __future__ import annotations

import resource
import time
from pathlib import Path

import pytest
from waiting import PATIENCE_S

from ovround.errors import ArtifactError, GenerationError, UsageError
from ovround.limits import LIMITS
from ovround.runtime.text.chat_template import ChatTemplate

CHAT = [{"role": "user", "content": "hi"}]
DOUBLE = "{% set n = namespace(x=START) %}{% for i in range(64) %}{% set n.x = STEP %}{% endfor %}{{ n.x }}"
HOSTILE = {
    "loops in loops": "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}",
    "a text doubled": DOUBLE.replace("START", "'x' * 1000").replace("STEP", "n.x ~ n.x"),
    "a list of itself": DOUBLE.replace("START", "[1]").replace("STEP", "[n.x, n.x]"),
    "a text multiplied": "{{ 'a' * 10**10 }}",
    "a power": "{{ (10**(10**7)) | string | length }}",
    "a width": "{{ '%1000000000d' % 1 }}",
    "a filter's width": "{{ 'a' | center(10**10) }}",
    "an indent": "{{ messages | tojson(indent=10**9) }}",
    "endless recursion": "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}",
    "a macro tree": "{% macro f(n) %}{% if n %}{{ f(n - 1) }}{{ f(n - 1) }}{% endif %}{% endmacro %}{{ f(60) }}",
    "filler text": "{{ lipsum(n=10**6) }}",
    "deep brackets": "{{" + "(" * 50_000 + "1" + ")" * 50_000 + "}}",
    "deep blocks": "{% if 1 %}" * 3000 + "{% endif %}" * 3000,
    "Python's internals": "{{ ''.__class__.__mro__[1].__subclasses__() }}",
    "attributes by filter": "{{ (''|attr('__class__')).deeper }}",
    "globals": "{{ cycler.__init__.__globals__.os.system('echo executed') }}",
    "format": "{{ '{0.__class__.__mro__}'.format('') }}{{ missing.more }}",
    "an import": "{% import 'os' as os %}{{ os }}",
    "a file": "{% include '/etc/passwd' %}",
    "a long prompt": "{{ 'a' * 20000000 }}",
    "a template of 2 MB": " " * (2 << 20),
}  # fmt: skip


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_template_is_refused_in_time(name: str) -> None:
    spent, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.monotonic()
    with pytest.raises((GenerationError, ArtifactError), match="chat template"):
        ChatTemplate(HOSTILE[name], {}).render(CHAT)
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert used.ru_utime + used.ru_stime - spent.ru_utime - spent.ru_stime < LIMITS.template_cpu_s + 1.5
    # A child's peak memory starts with this process's peak, because Linux keeps it through fork and exec.
    mine = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert used.ru_maxrss < max(2 * LIMITS.template_memory_bytes // 1024, spent.ru_maxrss + 1, mine + 1)
    assert time.monotonic() - start < LIMITS.template_wait_s + PATIENCE_S


def test_the_next_chat_finds_a_new_process() -> None:
    template = ChatTemplate(
        "{% if messages[0].content == 'loop' %}" + HOSTILE["loops in loops"] + "{% endif %}fine", {}
    )
    assert template.render(CHAT) == "fine"
    with pytest.raises(GenerationError, match="takes more than 1 s"):
        template.render([{"role": "user", "content": "loop"}])
    assert template.render(CHAT) == "fine"


def test_bounds_count_for_one_chat_alone() -> None:
    """A process renders many chats, and the time limit applies to each chat."""
    template = ChatTemplate("{% for a in range(2000) %}{% for b in range(200) %}{% endfor %}{% endfor %}ok", {})
    for _ in range(40):
        assert template.render(CHAT) == "ok"


def test_what_is_given_arrives_as_it_is() -> None:
    template = ChatTemplate("{{ messages[0].content }}{{ extra | tojson }}{{ bos_token }}", {"bos_token": "<s>"})
    text = 'line\nnext\r\t"\\ \0 \U0001f600 é \u2028 {{ 1 }}'
    rendered = template.render([{"role": "user", "content": text}], variables={"extra": {"a": [1, 2.5, None, True]}})
    assert rendered == text + '{"a": [1, 2.5, null, true]}<s>'


def test_an_argument_of_ours_cannot_be_replaced() -> None:
    with pytest.raises(UsageError, match="is set by the chat itself"):
        ChatTemplate("x", {}).render(CHAT, variables={"messages": []})


def test_no_process_outlives_its_template() -> None:
    template = ChatTemplate("x", {})
    template.render(CHAT)
    assert template._process is not None
    number = template._process._process.pid
    del template
    assert not Path(f"/proc/{number}").exists()
