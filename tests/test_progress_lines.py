"""Every command that may take more than a second says what it does, on stderr, and `--quiet` silences each of them."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import typer
from command_server import CommandServer, Moment, Result
from hub_server import HubServer
from measured_machine import keep_speed

from ovround.cli.app import app
from ovround.cli.shared_flags import Quiet

AT_ONCE = {"cache remove", "cache prune"}
RTN = "--recipe rtn --group-size 32"
WORDS = {
    "convert": f"convert SOURCE OUT {RTN}",
    "quantize": f"quantize SOURCE OUT {RTN}",
    "check": "check SOURCE",
    "fit": "fit SOURCE",
    "pull": "pull org/tiny",
    "run": "run CONVERTED hello --max-new-tokens 2",
    "chat": "chat CONVERTED --max-new-tokens 2",
    "serve": "serve CONVERTED --port 0 --engine single",
    "eval": "eval CONVERTED --text TEXT --context 16",
    "bench": "bench CONVERTED --repeat 1 --prompt-tokens 4 --new-tokens 2",
    "profile": "profile SOURCE OUT.json --repeat 1",
    "inspect": "inspect CONVERTED --check",
    "devices": "devices",
    "selftest": "selftest CONVERTED --device hpu-emulated",
    "demo": "demo",
    "cache list": "cache list --check",
}
SAID = {
    "convert": "opening SOURCE", "quantize": "opening SOURCE", "check": "reading SOURCE",
    "fit": "reading SOURCE, and measuring this machine", "pull": "comparing what is here with org/tiny",
    "run": "loading CONVERTED", "chat": "loading CONVERTED", "serve": "loading CONVERTED", "eval": "loading CONVERTED",
    "bench": "loading CONVERTED", "profile": "loading SOURCE", "inspect": "comparing the files of CONVERTED with the manifest",
    "devices": "asking the engines for their devices", "selftest": "loading CONVERTED", "demo": "original:",
    "cache list": "comparing every file with its manifest",
}  # fmt: skip
SLOW = ("demo", "serve", "selftest")


def leaves(group: Any, before: str = "") -> Iterator[tuple[str, Any]]:
    """Every command by its words."""
    for name, command in group.commands.items():
        if hasattr(command, "commands"):
            yield from leaves(command, f"{before}{name} ")
        else:
            yield f"{before}{name}", command


def test_every_command_has_the_flag_or_ends_at_once() -> None:
    found = dict(leaves(typer.main.get_command(app)))
    assert set(found) == set(WORDS) | AT_ONCE
    (option,) = Quiet.__metadata__  # type: ignore[attr-defined]
    for name in WORDS:
        (parameter,) = (parameter for parameter in found[name].params if parameter.name == "quiet")
        assert (parameter.opts, parameter.help) == (["--quiet"], option.help), name
    assert all(parameter.name != "quiet" for name in AT_ONCE for parameter in found[name].params)


@pytest.fixture(scope="module")
def short_moment(tmp_path_factory: pytest.TempPathFactory) -> Iterator[CommandServer]:
    if not hasattr(os, "fork"):
        pytest.skip("this system has no fork")
    support = str(Path(__file__).parent / "support")
    modules = ["ovround.exporters.openvino.package", "ovround.quant.passes.tuning", "ovround.runtime", "short_moment"]
    with CommandServer(tmp_path_factory.mktemp("commands"), modules, {"PYTHONPATH": support}) as server:
        yield server


@pytest.fixture
def said(
    short_moment: CommandServer, tiny_source: Path, tiny_folders: dict[str, Path], text_file: Path, tmp_path: Path
) -> Iterator[Callable[..., Result]]:
    """What a command says in which every moment is a long one."""
    text = tmp_path / "text.txt"
    text.write_text(text_file.read_text(encoding="utf-8")[:300], encoding="utf-8")
    places = {"SOURCE": tiny_source, "CONVERTED": tiny_folders["onnx"], "TEXT": text}
    with HubServer({"org/tiny": tiny_source}) as hub, pytest.MonkeyPatch.context() as patch:
        patch.setenv("OVROUND_CACHE", str(tmp_path / "cache"))
        keep_speed()
        environment = {"OVROUND_CACHE": str(tmp_path / "cache"), **hub.environment(tmp_path / "hub")}

        def run(name: str, *more: str) -> tuple[Result, str]:
            out = {"OUT": tmp_path / f"out{len(more)}", "OUT.json": tmp_path / f"out{len(more)}.json"}
            words = [str((places | out).get(word, word)) for word in WORDS[name].split()]
            expected = " ".join(str(places.get(word, word)) for word in SAID[name].replace(",", " ,").split())
            moment = Moment(signal.SIGINT, 1, "serve") if name == "serve" else None
            result = short_moment(*words, *more, stdin="hello\n", environment=environment, moment=moment)
            return result, expected.replace(" ,", ",")

        yield run


@pytest.mark.parametrize("name", [pytest.param(name, marks=pytest.mark.slow if name in SLOW else ()) for name in WORDS])
def test_a_command_says_what_it_does_unless_it_is_quiet(name: str, said: Callable[..., tuple[Result, str]]) -> None:
    spoken, expected = said(name)
    assert spoken.status == (130 if name == "serve" else 0), spoken.stderr
    assert expected in spoken.stderr.splitlines(), spoken.stderr
    quiet, _ = said(name, "--quiet")
    assert quiet.status == spoken.status
    if name == "serve":  # whose address is what it answers
        assert [line.partition(":")[0] for line in quiet.stderr.splitlines()] == [
            "onnx",
            "engine",
            "tool calls",
            "stopped",
        ]
    else:
        assert quiet.stderr == ""
