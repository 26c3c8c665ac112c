"""`ovround-run` has the options of `ovround run` and `ovround bench`, with the exceptions that its guide names."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import typer
from cpp_build import ROOT, SOURCE, built, need_compiler, run

from ovround.cli.app import app

GUIDE = ROOT / "docs" / "guides" / "cpp.md"
ONLY_PYTHON = {
    "--baseline", "--peer", "--baseline-model", "--baseline-python", "--baseline-threads", "--plot",
    "--raw", "--system-prompt", "--system", "--bits", "--format",
}  # fmt: skip
ONLY_CPP = {"--bench", "--chat", "--llguidance", "--operator", "--tokenizers", "--version"}
pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]  # the first test builds


@pytest.fixture(scope="module")
def program() -> Path:
    need_compiler()
    return built(SOURCE, ROOT / "build" / "cpp") / "ovround-run"


def of_python(command: str) -> dict[str, Any]:
    """The options of a Python command by their names."""
    params: Any = typer.main.get_command(app).commands[command].params  # type: ignore[attr-defined]
    return {
        name: parameter
        for parameter in params
        for name in (*parameter.opts, *parameter.secondary_opts)
        if name.startswith("-")
    }


def of_program(program: Path) -> set[str]:
    """The option names in the first column of the program's help."""
    columns = [
        line.lstrip().partition("  ")[0] for line in run(program, "--help").stdout.splitlines() if line[:3] == "  -"
    ]
    return {name for column in columns for name in re.findall(r"(?<!\S)--?[a-z][a-z-]*", column)}


def test_options_are_those_of_python_but_for_those_that_the_guide_names(program: Path) -> None:
    theirs, ours = of_program(program), of_python("run").keys() | of_python("bench").keys()
    assert ours - theirs - {"--help"} == ONLY_PYTHON
    assert theirs - ours == ONLY_CPP | ({"--help"} - ours)
    section = GUIDE.read_text().partition("## The program")[2].partition("\n## ")[0]
    assert {name for name in ONLY_PYTHON | ONLY_CPP if f"`{name}" not in section} == set()


def test_every_option_that_help_lists_is_known(program: Path) -> None:
    for name in sorted(of_program(program) - {"--help", "--version"}):
        refused = run(program, name)
        assert refused.returncode == 2
        assert "there is no option" not in refused.stderr, name


def test_defaults_are_those_of_python(program: Path) -> None:
    source = (SOURCE / "program" / "arguments.hpp").read_text()
    bench = of_python("bench")
    for name in ("prompt_tokens", "new_tokens", "repeat"):
        assert f"std::size_t {name} = {bench['--' + name.replace('_', '-')].default};" in source
