"""Regular expressions of a checkpoint's configuration: those of real ones are found, hostile ones end in time."""

from __future__ import annotations

import re
import time

import pytest

from ovround.checkpoint.pattern import Pattern
from ovround.errors import CheckpointError

NAMES = [f"model.layers.{layer}.{part}" for layer in range(12) for part in ("self_attn.q_proj", "mlp.down_proj")]


@pytest.mark.parametrize(
    "source",
    [r".*layers\.(0|1|2)\.mlp.*", "model.layers.1.mlp.down_proj", r"^(?!.*(q_proj|k_proj)).*$", r"layers\.\d{1,2}\.", "x", ""],
)  # fmt: skip
def test_finds_what_python_finds(source: str) -> None:
    pattern = Pattern(source)
    for name in NAMES:
        assert pattern.search(name) == (re.search(source, name) is not None)
        assert pattern.match(name) == (re.match(source, name) is not None)


@pytest.mark.parametrize(
    "source",
    ["(((a{1000}){1000}){1000}){1000}", "(a{99999})", "a" * 1001, "(" * 400 + ")" * 400, "(", "a**", "(?P<x", "[z-a]"],
)
def test_what_cannot_be_compiled_is_refused(source: str) -> None:
    with pytest.raises(CheckpointError, match="regular expression"):
        Pattern(source)


@pytest.mark.parametrize("source", [r"((\w|\w\w)+\.?)+!", "(.*,){8}x.*(.*)*y", r"^(\w+\s?\.?)*$!", r"(x+x+)+y"])
def test_a_hostile_one_ends(source: str) -> None:
    pattern, start = Pattern(source), time.perf_counter()
    try:
        for layer in range(10_000):
            pattern.search(f"{'x' * 60}.{layer}." + "ab," * 40)
    except CheckpointError as error:
        assert "takes more than 0.5 s" in str(error)  # noqa: PT017  # it may be fast enough as well
    assert time.perf_counter() - start < 10
