"""`bench --baseline`: two processes in turn, and what goes wrong with either; `--plot`: a picture of a sweep."""

from __future__ import annotations

import dataclasses
import json
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest

from ovround.cli.plot import check_plot, plot
from ovround.errors import EngineError, OvroundError, UsageError
from ovround.measure.peers import PEERS, compare
from ovround.measure.peers.comparison import Contender, Runner
from ovround.measure.sweep import BATCHES, sweep

SHORT: dict[str, Any] = {"prompt_tokens": 12, "new_tokens": 4, "rounds": 2, "threads": 1}


@pytest.mark.parametrize(("format_name", "peer"), [("openvino", "openvino_genai"), ("onnx", "onnxruntime_genai")])
def test_ours_beside_a_peer(request: pytest.FixtureRequest, format_name: str, peer: str) -> None:
    pytest.importorskip(peer)
    rounds: list[int] = []
    folder = request.getfixturevalue(f"{format_name}_folder")
    result = compare(folder, peer.replace("_", "-"), on_round=lambda number, *ratios: rounds.append(number), **SHORT)
    assert rounds == [0, 1]
    assert result.ours.label.startswith("ovround")
    assert result.peer.label.startswith((peer, peer.replace("_", "-")))
    for side in (result.ours, result.peer):
        assert 0 < side.time_per_output_token_median_s < side.load_to_first_token_s
    assert result.load_to_first_token_ratio == pytest.approx(
        result.ours.load_to_first_token_s / result.peer.load_to_first_token_s
    )
    assert json.loads(json.dumps(dataclasses.asdict(result)))["rounds"] == 2


def test_both_sides_give_the_same_tokens_as_many_times_as_asked(openvino_folder: Path) -> None:
    prompt = [5, 6, 7]
    runner = Runner(Contender("ovround", str(openvino_folder), 1), prompt)
    try:
        assert len(runner.run(prompt, 5)) == 5
        assert len(runner.first) == len(runner.later) == 1
    finally:
        runner.close()


@pytest.mark.parametrize(
    ("peer", "fields", "message"),
    [
        ("vllm", {}, "openvino-genai, onnxruntime-genai"),
        ("llama.cpp", {}, "--baseline-model"),
        ("openvino-genai", {"new_tokens": 1}, "new_tokens"),
        ("openvino-genai", {"prompt_tokens": 10_000}, "context"),
        ("openvino-genai", {"peer_model": Path("nowhere")}, "nowhere"),
    ],
)
def test_what_is_refused_before_anything_starts(
    openvino_folder: Path, peer: str, fields: dict[str, Any], message: str
) -> None:
    with pytest.raises(UsageError) as caught:
        compare(openvino_folder, peer, **{**SHORT, **fields})
    assert message in f"{caught.value} {caught.value.hint}"


def test_a_peer_that_is_not_installed(openvino_folder: Path, tmp_path: Path) -> None:
    """A Python without the library: `-S` leaves site-packages out."""
    python = tmp_path / "python"
    python.write_text(f'#!/bin/sh\nexec "{sys.executable}" -S "$@"\n')
    python.chmod(0o755)
    with pytest.raises(EngineError, match="openvino") as caught:
        compare(openvino_folder, "openvino-genai", peer_python=python, **SHORT)
    assert caught.value.hint is not None
    assert PEERS["openvino-genai"][0] in caught.value.hint


def test_a_peer_that_dies(openvino_folder: Path, tmp_path: Path) -> None:
    python = tmp_path / "python"
    python.write_text('#!/bin/sh\necho "Illegal instruction" >&2\nexit 4\n')
    python.chmod(0o755)
    with pytest.raises(EngineError, match="Illegal instruction"):
        compare(openvino_folder, "openvino-genai", peer_python=python, **SHORT)


def test_a_sweep_is_drawn(openvino_folder: Path, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    result = sweep(openvino_folder, prompt_tokens=8, new_tokens=3, repeat=1, threads=1)
    assert [point.prompt_tokens for point in result.contexts] == [32, 64, 128, 256, 512]
    assert [point.batch for point in result.batches] == list(BATCHES)
    picture = tmp_path / "latency.png"
    check_plot(picture)
    plot(result, "tiny", picture)
    assert picture.read_bytes().startswith(b"\x89PNG")
    assert picture.stat().st_size > 10_000


@pytest.mark.parametrize("name", ["latency.txt", "nowhere/latency.png"])
def test_a_picture_that_cannot_be_written(tmp_path: Path, name: str) -> None:
    with pytest.raises(UsageError, match="plot"):
        check_plot(tmp_path / name)


def test_both_measurements_open_the_folder_as_requested(demo_folders: dict[str, Path], tmp_path: Path) -> None:
    """A folder with a changed byte is measured where it need not be verified, and only there."""
    folder = tmp_path / "changed"
    shutil.copytree(demo_folders["openvino"], folder)
    changed = folder / "openvino_model.xml"
    text = changed.read_text()
    changed.write_text(text.replace("\n\t<layers>", "\n <layers>", 1))
    short = {name: value for name, value in SHORT.items() if name != "rounds"}
    with pytest.raises(OvroundError, match=r"openvino_model\.xml"):
        sweep(folder, repeat=1, **short)
    with pytest.raises(EngineError, match=r"openvino_model\.xml"):
        compare(folder, "openvino-genai", **SHORT)
    assert sweep(folder, repeat=1, verify=False, **short).batches
    with pytest.raises(UsageError, match="abacus"):
        sweep(folder, repeat=1, verify=False, kernel="abacus", **short)
    with pytest.raises(EngineError, match="abacus"):
        compare(folder, "openvino-genai", verify=False, kernel="abacus", **SHORT)
