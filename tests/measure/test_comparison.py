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
from ovround.measure.bench_options import BenchOptions
from ovround.measure.peers import PEERS, Baseline, compare
from ovround.measure.peers.comparison import Contender, Runner
from ovround.measure.sweep import BATCHES, sweep

SHORT = BenchOptions(prompt_tokens=12, new_tokens=4, repeat=2, threads=1)
GENAI = Baseline("openvino-genai")


@pytest.mark.parametrize(("format_name", "peer"), [("openvino", "openvino_genai"), ("onnx", "onnxruntime_genai")])
def test_ours_beside_a_peer(request: pytest.FixtureRequest, format_name: str, peer: str) -> None:
    pytest.importorskip(peer)
    rounds: list[int] = []
    folder = request.getfixturevalue(f"{format_name}_folder")
    result = compare(folder, Baseline(peer.replace("_", "-")), SHORT, lambda number, *ratios: rounds.append(number))
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
    ("baseline", "options", "message"),
    [
        ({"name": "vllm"}, {}, "openvino-genai, onnxruntime-genai"),
        ({"name": "llama.cpp"}, {}, "--baseline-model"),
        ({"name": "openvino-genai"}, {"new_tokens": 1}, "new_tokens"),
        ({"name": "openvino-genai"}, {"prompt_tokens": 10_000}, "context"),
        ({"name": "openvino-genai", "model": Path("nowhere")}, {}, "nowhere"),
    ],
)
def test_what_is_refused_before_anything_starts(
    openvino_folder: Path, baseline: dict[str, Any], options: dict[str, Any], message: str
) -> None:
    with pytest.raises(UsageError) as caught:
        compare(openvino_folder, Baseline(**baseline), dataclasses.replace(SHORT, **options))
    assert message in f"{caught.value} {caught.value.hint}"


def test_a_peer_that_is_not_installed(openvino_folder: Path, tmp_path: Path) -> None:
    """A Python without the library: `-S` leaves site-packages out."""
    python = tmp_path / "python"
    python.write_text(f'#!/bin/sh\nexec "{sys.executable}" -S "$@"\n')
    python.chmod(0o755)
    with pytest.raises(EngineError, match="openvino") as caught:
        compare(openvino_folder, Baseline("openvino-genai", python=python), SHORT)
    assert caught.value.hint is not None
    assert PEERS["openvino-genai"][0] in caught.value.hint


def test_a_peer_that_dies(openvino_folder: Path, tmp_path: Path) -> None:
    python = tmp_path / "python"
    python.write_text('#!/bin/sh\necho "Illegal instruction" >&2\nexit 4\n')
    python.chmod(0o755)
    with pytest.raises(EngineError, match="Illegal instruction"):
        compare(openvino_folder, Baseline("openvino-genai", python=python), SHORT)


def test_a_sweep_is_drawn(openvino_folder: Path, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    result = sweep(openvino_folder, BenchOptions(prompt_tokens=8, new_tokens=3, repeat=1, threads=1))
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
    once, unverified = dataclasses.replace(SHORT, repeat=1), dataclasses.replace(SHORT, repeat=1, verify=False)
    unknown = dataclasses.replace(unverified, kernel="abacus")
    with pytest.raises(OvroundError, match=r"openvino_model\.xml"):
        sweep(folder, once)
    with pytest.raises(EngineError, match=r"openvino_model\.xml"):
        compare(folder, GENAI, SHORT)
    assert sweep(folder, unverified).batches
    with pytest.raises(UsageError, match="abacus"):
        sweep(folder, unknown)
    with pytest.raises(EngineError, match="abacus"):
        compare(folder, GENAI, unknown)
