"""What commands show of their work: equal layers in one line, and how far a long job is."""

from __future__ import annotations

import io
import sys
import time

import pytest

from ovround.cli import working
from ovround.cli.equal_layers import equal_layers
from ovround.cli.working import Counter


class Screen(io.StringIO):
    """A terminal as stderr."""

    def isatty(self) -> bool:
        return True


def test_equal_layers_are_one_line() -> None:
    names = [
        "embed", *(f"layers.{i}.up" for i in (0, 1, 2, 4)), "layers.3.up", "layers.3.norm",
        *(f"layers.{i}.experts.{j}.up" for i in range(2) for j in range(3)), "conv.1", "h2.w",
    ]  # fmt: skip
    groups = equal_layers(names, str, lambda name: name == "layers.3.up")
    assert [(group.name, len(group.tensors)) for group in groups] == [
        ("embed", 1), ("layers.[0-2,4].up", 4), ("layers.3.up", 1), ("layers.3.norm", 1),
        ("layers.[0-1].experts.[0-2].up", 6), ("conv.1", 1), ("h2.w", 1),
    ]  # fmt: skip
    assert [name for group in equal_layers(names, str, str) for name in group.tensors] == names


@pytest.mark.parametrize("quiet", [False, True])
def test_a_counter_writes_lines_into_a_pipe(monkeypatch: pytest.MonkeyPatch, quiet: bool) -> None:
    monkeypatch.setattr(sys, "stderr", io.StringIO())
    monkeypatch.setattr(working, "_LINE_S", 0.0)
    counter = Counter("scored samples", quiet=quiet)
    counter(2, 4)
    counter(4, 4)
    counter.end()
    lines = sys.stderr.getvalue().splitlines()  # type: ignore[attr-defined]
    said = ["scored samples: 2 of 4, 0 s, 0 s left", "scored samples: 4 of 4, 0 s, 0 s left"]
    assert lines == ([] if quiet else said)


def test_a_short_job_says_nothing_and_a_long_one_leaves_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stderr", Screen())
    with working.working("loading"):
        pass
    assert sys.stderr.getvalue() == ""  # type: ignore[attr-defined]
    monkeypatch.setattr(working, "_MOMENT_S", 0.0)
    with working.working("loading"):
        time.sleep(0.2)
    assert sys.stderr.getvalue() == "loading\r\x1b[K"  # type: ignore[attr-defined]
