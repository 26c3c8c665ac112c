"""`ovround-run` has the options of `ovround run` and `ovround bench`, with the exceptions that its guide names, and its refusals."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import typer
from command_server import CommandServer
from cpp_build import ROOT, SOURCE, built, need_compiler, run

from ovround.cli.app import app

GUIDE = ROOT / "docs" / "guides" / "cpp.md"
ONLY_PYTHON = {
    "--baseline", "--peer", "--baseline-model", "--baseline-python", "--baseline-threads", "--plot",
    "--bits", "--format",
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
    assert theirs - ours - {"-h", "--help"} == ONLY_CPP
    section = GUIDE.read_text().partition("## The program")[2].partition("\n## ")[0]
    assert {name for name in ONLY_PYTHON | ONLY_CPP if f"`{name}" not in section} == set()


def test_every_option_that_help_lists_is_known(program: Path) -> None:
    for name in sorted(of_program(program) - {"-h", "--help", "--version"}):
        refused = run(program, name)
        assert refused.returncode == 2
        assert "there is no option" not in refused.stderr, name


def test_defaults_are_those_of_python(program: Path) -> None:
    source = (SOURCE / "program" / "arguments.hpp").read_text()
    bench = of_python("bench")
    for name in ("prompt_tokens", "new_tokens", "repeat"):
        assert f"std::size_t {name} = {bench['--' + name.replace('_', '-')].default};" in source


@pytest.mark.parametrize(
    ("words", "prompt_format"),
    [
        (("How do I open a file?",), "chat_template"),
        (("How do I open a file?", "--chat"), "chat_template"),
        (("How do I open a file?", "--system", "Be brief."), "chat_template"),
        (("How do I open a file?", "--raw"), "raw"),
        (("<s>### User\nHow do I open a file?\n\n### Assistant\n",), "own_template"),
        (("### User\nHow do I open a file?",), "own_template"),
    ],
)
def test_prompts_are_built_as_in_python(
    program: Path,
    demo_folders: dict[str, Path],
    loaded_command: CommandServer,
    words: tuple[str, ...],
    prompt_format: str,
) -> None:
    options = ("--max-new-tokens", "4", "--exact", "--json")
    ours = run(program, demo_folders["openvino"], *words, *options)
    theirs = loaded_command("run", demo_folders["openvino"], *(word for word in words if word != "--chat"), *options)
    answers = [json.loads(done.stdout) for done in (ours, theirs)]
    for answer in answers:
        del answer["timings"]
    assert answers[0] == answers[1]
    assert answers[0]["prompt_format"] == prompt_format
    assert ours.stderr == theirs.stderr


def test_a_base_model_continues_text(program: Path, tiny_folders: dict[str, Path], tmp_path: Path) -> None:
    folder = shutil.copytree(tiny_folders["openvino"], tmp_path / "base")
    settings = json.loads((folder / "tokenizer_config.json").read_text())
    settings.pop("chat_template", None)
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    for name in ("ovround.json", "chat_template.jinja"):  # the manifest has the file's digest
        (folder / name).unlink(missing_ok=True)
    done = run(program, folder, "once", "--max-new-tokens", 2, "--json")
    assert json.loads(done.stdout)["prompt_format"] == "base_model", done.stderr
    for option, words in (
        ("--chat", "has no chat template"),
        ("--system=a", "system-prompt is given, yet the model has no chat template"),
    ):
        refused = run(program, folder, "once", option)
        assert refused.stdout == ""
        assert words in refused.stderr


def test_short_options(program: Path, demo_folders: dict[str, Path]) -> None:
    assert run(program, "-h").stdout == run(program, "--help").stdout != ""
    asked = (demo_folders["openvino"], "Return", "--raw", "--max-new-tokens", 2, "--exact")
    texts = {run(program, *asked, *device).stdout for device in (("-dCPU",), ("-d", "CPU"), ("--device=CPU",))}
    assert len(texts) == 1
    assert texts != {""}
    dashed = run(program, *asked[2:], "--", asked[0], "-x")
    assert (dashed.returncode, dashed.stdout != "") == (0, True), dashed.stderr


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("-x",), "there is no option `-x`"),
        (("--raw=1",), "--raw takes no value"),
        (("--max-new-tokens", "1e3"), "--max-new-tokens is `1e3`; a whole number is needed"),
        (("--temperature", "warm"), "--temperature is `warm`; a number is needed"),
        (("--seed", "-1"), "seed is `-1`; a whole number of 0 to 18446744073709551615 is needed"),
        (("--seed", "18446744073709551616"), "a whole number of 0 to 18446744073709551615 is needed"),
        (("--stop-token-id", "-1"), "stop_token_ids is -1; a whole number of 0 or more is needed"),
    ],
)
def test_options_are_refused_as_in_python(
    program: Path, demo_folders: dict[str, Path], loaded_command: CommandServer, words: tuple[str, ...], message: str
) -> None:
    asked = (demo_folders["openvino"], "a", *words)
    ours, theirs = run(program, *asked), loaded_command("run", *asked)
    assert (ours.returncode, ours.stdout, theirs.status) == (2, "", 2)
    assert message in ours.stderr
    assert ours.stderr.count("\n") <= 4


def test_numbers_may_have_an_exponent_where_python_takes_it(program: Path, demo_folders: dict[str, Path]) -> None:
    done = run(program, demo_folders["openvino"], "a", "--max-new-tokens", 1, "--temperature", "1e-1", "--seed", 1)
    assert done.returncode == 0, done.stderr


def test_a_full_disk_is_a_failure(program: Path, demo_folders: dict[str, Path]) -> None:
    if not Path("/dev/full").exists():
        pytest.skip("no /dev/full")
    answer = (demo_folders["openvino"], "a", "--max-new-tokens", "2")
    for words in (answer, (*answer, "--json"), ("--help",)):
        with Path("/dev/full").open("w") as full:
            done = subprocess.run([program, *words], stdout=full, stderr=subprocess.PIPE, text=True, check=False)
        assert (done.returncode, done.stderr) == (1, "error: output cannot be written: No space left on device\n")


def test_paths_that_cannot_be_opened(program: Path, demo_folders: dict[str, Path], tmp_path: Path) -> None:
    (tmp_path / "loop").symlink_to("loop")
    looped = tmp_path / "looped"
    looped.mkdir()
    (looped / "openvino_model.xml").symlink_to("openvino_model.xml")
    closed = tmp_path / "closed"
    closed.mkdir(mode=0)
    cases = [(tmp_path / "loop", "Too many levels of symbolic links"), (looped, "Too many levels of symbolic links")]
    if os.geteuid():  # root may look everywhere
        cases.append((closed / "model", "Permission denied"))
    for folder, reason in cases:
        done = run(program, folder, "a")
        assert done.returncode == 1
        assert done.stderr.startswith(f"error: `{folder}")
        assert done.stderr.endswith(f"` cannot be opened: {reason}\n")
    closed.chmod(0o700)
