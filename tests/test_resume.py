"""A tuned conversion continues where it was killed, stopped or failed, and gives the bytes of an undisturbed one."""

from __future__ import annotations

import os
import random
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from checkpoint_writer import tiny_config, write_checkpoint
from command_server import CommandServer
from failing_steps import FailAt, broken, contents, full, interrupted
from mutations import SCALE

import ovround
from ovround.artifact.output_folder import output_lock
from ovround.conversion import convert as conversion
from ovround.conversion.convert import convert
from ovround.errors import OutputError, ResumeError, UsageError
from ovround.options.convert_options import ConvertOptions
from ovround.options.layer_rule import LayerRule
from ovround.options.tuning_options import TuningOptions
from ovround.options.units import parse_size
from ovround.progress import Progress
from ovround.quant.calibration.activation_file import Activations
from ovround.quant.memory import memory_need

KILLS = int(os.environ.get("OVROUND_TEST_KILLS", str(2 + min(SCALE, 20))))  # how many random moments, nothing else
BLOCKS = 4
WORK = ".out.ovround-work"


class StopError(Exception):
    """What an application raises from its callback."""


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny checkpoint of a few blocks."""
    return write_checkpoint(tmp_path_factory.mktemp("source") / "tiny", tiny_config(num_hidden_layers=BLOCKS))


@pytest.fixture(scope="module")
def options(text_file: Path) -> ConvertOptions:
    return ConvertOptions(
        formats=("onnx",),
        group_size=32,
        bits=3,
        sym=False,
        iters=4,
        nsamples=8,
        seqlen=32,
        tuning=TuningOptions(batch_size=4),
        calibration=(text_file,),
    )


@pytest.fixture(scope="module")
def undisturbed(source: Path, options: ConvertOptions, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    return contents(convert(source, tmp_path_factory.mktemp("undisturbed") / "out", options).folders[0])


@pytest.fixture(scope="module")
def half_done(source: Path, options: ConvertOptions, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder beside OUT of a conversion that was stopped after two blocks; to be copied."""
    workspace = tmp_path_factory.mktemp("half")
    with pytest.raises(StopError) as caught:
        convert(source, workspace / "out", options, stop_after(2))
    (note,) = caught.value.__notes__
    assert note == f"2 of {BLOCKS} blocks are kept in `{workspace / WORK}`; the same command continues"
    names = [path.name for path in sorted((workspace / WORK).iterdir())]
    assert names == ["job.json", "tuned-00000.safetensors", "tuned-00001.safetensors"]
    assert list(workspace.iterdir()) == [workspace / WORK]
    return workspace


@pytest.fixture
def workspace(half_done: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(half_done, tmp_path / "workspace"))


def stop_after(blocks: int) -> Callable[[Progress], None]:
    def stop(progress: Progress) -> None:
        if progress.stage == "quantise" and not progress.steps and progress.block == blocks:
            raise StopError

    return stop


def record_stages(stages: list[tuple[str, int]]) -> Callable[[Progress], None]:
    """A callback that writes down stages and blocks, single steps left out."""

    def tell(progress: Progress) -> None:
        if not progress.steps:
            stages.append((progress.stage, progress.block))

    return tell


ENDING = [("write", 0), ("verify", 0)]


def test_the_same_call_continues(
    source: Path, workspace: Path, options: ConvertOptions, undisturbed: dict[str, str]
) -> None:
    stages: list[tuple[str, int]] = []
    convert(source, workspace / "out", options, record_stages(stages))
    assert stages == [("check", 0), ("resume", 1), ("resume", 2), ("quantise", 3), ("quantise", 4), *ENDING]
    assert contents(workspace / "out") == undisturbed
    assert [path.name for path in workspace.iterdir()] == ["out"]


def test_other_formats_take_the_finished_blocks(
    source: Path, workspace: Path, options: ConvertOptions, undisturbed: dict[str, str]
) -> None:
    conversion = convert(source, workspace / "out", replace(options, formats=("openvino", "onnx")))
    weights = {manifest.format: manifest.weights for manifest in conversion.manifests}
    assert weights["onnx"] == weights["openvino"]
    assert contents(workspace / "out" / "onnx") == undisturbed


def test_without_the_kept_blocks_it_starts_over(
    source: Path, workspace: Path, options: ConvertOptions, undisturbed: dict[str, str]
) -> None:
    stages: list[tuple[str, int]] = []
    shutil.rmtree(workspace / WORK)
    convert(source, workspace / "out", options, record_stages(stages))
    assert stages == [("check", 0), *(("quantise", block + 1) for block in range(BLOCKS)), *ENDING]
    assert contents(workspace / "out") == undisturbed
    assert [path.name for path in workspace.iterdir()] == ["out"]


def test_all_blocks_are_kept_when_only_writing_failed(
    source: Path, tmp_path: Path, options: ConvertOptions, undisturbed: dict[str, str]
) -> None:
    def stop(progress: Progress) -> None:
        if progress.stage == "verify":
            raise StopError

    with pytest.raises(StopError):
        convert(source, tmp_path / "out", options, stop)
    stages: list[tuple[str, int]] = []
    convert(source, tmp_path / "out", options, record_stages(stages))
    assert stages == [("check", 0), ("resume", BLOCKS), *ENDING]
    assert contents(tmp_path / "out") == undisturbed


def test_what_is_only_rounded_leaves_the_folder_alone(source: Path, workspace: Path) -> None:
    before = contents(workspace)
    rounded = ConvertOptions(formats=("onnx",), recipe="rtn", group_size=32)
    convert(source, workspace / "out", rounded)
    assert {name: sha256 for name, sha256 in contents(workspace).items() if not name.startswith("out/")} == before


# What must be equal


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"bits": 4}, "bits was 3, is 4"),
        ({"sym": True, "seed": 7}, "sym was false, is true; seed was 42, is 7"),
        ({"tuning": TuningOptions(batch_size=2)}, "batch_size was 4, is 2"),
        ({"layers": (LayerRule("v_proj", bits=8),)}, "layer was []"),
        ({"seqlen": 16}, "calibration text was 9 samples of 32 tokens"),
    ],
)
def test_a_changed_option_is_refused(
    source: Path, workspace: Path, options: ConvertOptions, change: dict[str, object], said: str
) -> None:
    before = contents(workspace)
    with pytest.raises(ResumeError) as caught:
        convert(source, workspace / "out", replace(options, **change))
    assert str(caught.value).startswith(f"2 of {BLOCKS} blocks in `{workspace / WORK}` were made from other inputs: ")
    assert said in str(caught.value)
    assert caught.value.hint == f"restore what has changed to continue, or start over: rm -r {workspace / WORK}"
    assert contents(workspace) == before


def refused(work: Callable[[], object]) -> str:
    with pytest.raises(ResumeError) as caught:
        work()
    return str(caught.value).partition("other inputs: ")[2]


def test_another_source_is_refused(workspace: Path, tmp_path: Path, options: ConvertOptions) -> None:
    other = write_checkpoint(tmp_path / "tiny", tiny_config(num_hidden_layers=BLOCKS), seed=1)
    said = refused(lambda: convert(other, workspace / "out", options))
    assert said.startswith("source file model.safetensors was sha256 ")
    assert ";" not in said


def test_another_text_is_refused_and_the_same_one_by_another_name_is_not(
    source: Path, workspace: Path, tmp_path: Path, options: ConvertOptions
) -> None:
    text = tmp_path / "other.txt"
    words = options.calibration[0].read_text(encoding="utf-8")
    text.write_text(words[5_000:], encoding="utf-8")
    changed = replace(options, calibration=(text,))
    said = refused(lambda: convert(source, workspace / "out", changed))
    assert said.startswith("calibration text was 9 samples of 32 tokens, sha256 ")
    assert ";" not in said
    text.write_text(words, encoding="utf-8")
    convert(source, workspace / "out", changed)


def test_other_versions_and_threads_are_refused(
    source: Path, workspace: Path, options: ConvertOptions, monkeypatch: pytest.MonkeyPatch
) -> None:
    def work() -> object:
        return convert(source, workspace / "out", options)

    version = ovround.__version__
    monkeypatch.setattr(ovround, "__version__", "99.0")
    assert refused(work) == f"ovround was {version}, is 99.0"
    monkeypatch.undo()
    real = conversion.installed_versions()
    monkeypatch.setattr(conversion, "installed_versions", lambda: {**real, "torch": "1.0"})
    assert refused(work) == f"torch was {real['torch']}, is 1.0"
    monkeypatch.undo()
    before = torch.get_num_threads()
    torch.set_num_threads(before + 1)
    try:
        assert refused(work) == f"threads was {before}, is {before + 1}"
    finally:
        torch.set_num_threads(before)
    work()


def test_the_command_says_it(source: Path, workspace: Path, options: ConvertOptions, command: CommandServer) -> None:
    words = ["--format", "onnx", "--group-size", "32", "--bits", "2", "--asym", "--iters", "4", "--nsamples", "8"]
    words += ["--seqlen", "32", "--calibration", str(options.calibration[0])]
    result = command("convert", source, workspace / "out", *words, "--quiet")
    assert result.status == 1
    error, hint = result.stderr.splitlines()
    assert error.startswith(
        f"error: 2 of {BLOCKS} blocks in `{workspace / WORK}` were made from other inputs: bits was 3, is 2"
    )
    start, _, way_out = hint.partition("start over: ")
    assert start == "hint: restore what has changed to continue, or "
    subprocess.run(shlex.split(way_out), check=True)
    assert command("convert", source, workspace / "out", *words, "--quiet").status == 0
    assert [path.name for path in workspace.iterdir()] == ["out"]


# Damage


def flip(data: bytes, at: int) -> bytes:
    return data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :]


@pytest.mark.parametrize("damage", ["a bit of the codes", "a bit of the header", "cut", "empty", "zeros", "missing"])
def test_a_damaged_block_is_tuned_again(
    source: Path, workspace: Path, options: ConvertOptions, undisturbed: dict[str, str], damage: str
) -> None:
    path = workspace / WORK / "tuned-00000.safetensors"
    data = path.read_bytes()
    header = data.index(b"relative_error")
    damaged = {
        "a bit of the codes": flip(data, len(data) - 9), "a bit of the header": flip(data, header + 20),
        "cut": data[:-100], "empty": b"", "zeros": bytes(len(data)), "missing": None,
    }[damage]  # fmt: skip
    path.unlink()
    if damaged is not None:
        path.write_bytes(damaged)
    stages: list[tuple[str, int]] = []
    convert(source, workspace / "out", options, record_stages(stages))
    first = [("damaged", 0)] if damaged is not None else []
    assert stages[1:] == [*first, ("quantise", 1), ("resume", 2), ("quantise", 3), ("quantise", 4), *ENDING]
    assert contents(workspace / "out") == undisturbed


@pytest.mark.parametrize("content", [None, b"", b"{", b"[]"])
def test_blocks_say_themselves_what_they_belong_to(
    source: Path, workspace: Path, options: ConvertOptions, undisturbed: dict[str, str], content: bytes | None
) -> None:
    """Without a sound job.json: equal inputs continue, others begin anew."""
    job = workspace / WORK / "job.json"
    job.unlink()
    if content is not None:
        job.write_bytes(content)
    other = Path(shutil.copytree(workspace, workspace.parent / "other"))
    stages: list[tuple[str, int]] = []
    convert(source, workspace / "out", options, record_stages(stages))
    assert ("resume", 2) in stages
    assert contents(workspace / "out") == undisturbed
    stages.clear()
    convert(source, other / "out", replace(options, seed=1), record_stages(stages))
    assert [block for stage, block in stages if stage == "damaged"] == [0, 1]
    assert ("quantise", 1) in stages


def test_something_else_in_the_folders_place_is_refused(source: Path, tmp_path: Path, options: ConvertOptions) -> None:
    (tmp_path / WORK).write_text("years of work")
    with pytest.raises(OutputError, match="exists and is no folder"):
        convert(source, tmp_path / "out", options)
    assert [path.name for path in tmp_path.iterdir()] == [WORK]
    assert (tmp_path / WORK).read_text() == "years of work"


# Interruptions


@pytest.mark.slow
@pytest.mark.skipif(os.name == "nt", reason="Windows has no such signal")
def test_killed_at_random_moments(
    source: Path, tmp_path: Path, options: ConvertOptions, loaded_command: CommandServer
) -> None:
    """kill -9, again and again with the same command in between; nothing but the finished folder is left at the end."""
    words = ["--group-size", "32", "--asym", "--iters", "20", "--nsamples", "8", "--seqlen", "32"]
    words += ["--calibration", str(options.calibration[0]), "--format", "openvino", "--format", "onnx", "--quiet"]
    started = time.monotonic()
    assert loaded_command("convert", source, tmp_path / "undisturbed" / "out", *words).status == 0
    whole_s = time.monotonic() - started
    undisturbed = contents(tmp_path / "undisturbed" / "out")
    draw = random.Random(KILLS)
    workspace = tmp_path / "workspace"
    for number in range(KILLS):
        shutil.rmtree(workspace, ignore_errors=True)
        workspace.mkdir()
        delay_s = whole_s * (number + draw.random()) / KILLS
        first = loaded_command("convert", source, workspace / "out", *words, kill=(signal.SIGKILL, delay_s))
        assert first.status in (-signal.SIGKILL, 0)
        if first.status:
            assert not (workspace / "out").exists() or contents(workspace / "out") == undisturbed
            again = loaded_command("convert", source, workspace / "out", *words)
            assert again.status == 0, again.stderr
        assert contents(workspace / "out") == undisturbed, delay_s
        assert [path.name for path in workspace.iterdir()] == ["out"]


@pytest.fixture(scope="module")
def failing() -> FailAt:
    return FailAt()


@pytest.mark.slow
@pytest.mark.parametrize("error", [full, broken, KeyboardInterrupt], ids=["full disk", "broken disk", "Ctrl-C"])
def test_a_failure_at_any_step(
    source: Path,
    tmp_path: Path,
    options: ConvertOptions,
    undisturbed: dict[str, str],
    failing: FailAt,
    error: Callable[[], BaseException],
) -> None:
    workspace, every = tmp_path / "new" / "workspace", max(19 // SCALE, 1)
    for step in interrupted(failing, workspace, error, lambda: convert(source, workspace / "out", options), every):
        left = {path.name for path in workspace.iterdir()} if workspace.exists() else set()
        assert left <= {"out", WORK}, step
        if WORK in left:
            assert {path.suffix for path in (workspace / WORK).iterdir()} <= {".json", ".safetensors"}, step
            assert (workspace / WORK / "tuned-00000.safetensors").is_file(), step
        convert(source, workspace / "out", options)
        assert contents(workspace / "out") == undisturbed, step
        assert [path.name for path in workspace.iterdir()] == ["out"]
        shutil.rmtree(tmp_path / "new")
    assert contents(workspace / "out") == undisturbed


def test_the_message_of_a_full_disk(source: Path, workspace: Path, options: ConvertOptions, failing: FailAt) -> None:
    def work(k: int) -> str | None:
        failing.arm(workspace / WORK / "tuned-00002", k, full())
        with pytest.raises(OutputError) as caught:
            convert(source, workspace / "out", options)
        assert caught.value.hint == "free some space and run again"
        return str(caught.value)

    kept = f"2 of {BLOCKS} blocks are kept in `{workspace / WORK}`; the same command continues"
    said = work(1)
    assert said is not None
    assert said.startswith(f"the disk is full while writing `{workspace / 'out'}`: ")
    assert said.endswith(f" MB are needed in all; {kept}")
    assert [path.name for path in workspace.iterdir()] == [WORK]


# One at a time


def test_a_second_process_is_refused(source: Path, workspace: Path, command: CommandServer) -> None:
    with output_lock(workspace / "out"):
        for recipe in ("rtn", "light"):
            result = command(
                "convert", source, workspace / "out", "--group-size", "32", "--recipe", recipe, "--seqlen", "32"
            )
            assert result.stderr.splitlines() == [
                f"error: `{workspace / 'out'}` is being written by another process ({os.getpid()})",
                "hint: wait for it, or choose another output folder",
            ]
            assert (result.status, result.stdout, "torch" in result.modules) == (1, "", False)
    assert [path.name for path in workspace.iterdir()] == [WORK]


HOLD = """
import sys, time
from pathlib import Path
from ovround.artifact.output_folder import output_lock
with output_lock(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(60)
"""


def test_the_lock_of_a_killed_process_is_free(tmp_path: Path) -> None:
    out = tmp_path / "out"
    process = subprocess.Popen([sys.executable, "-c", HOLD, str(out)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    with pytest.raises(OutputError, match=rf"another process \({process.pid}\)"), output_lock(out):
        pass
    process.kill()
    process.communicate()
    if os.name != "nt":
        assert (tmp_path / ".out.ovround-lock").exists()
    with output_lock(out):
        pass
    assert list(tmp_path.iterdir()) == []


def test_what_a_killed_process_left_is_removed_and_what_it_moved_is_put_back(tmp_path: Path) -> None:
    scratch, other = tmp_path / ".out.0123abcd.partial", tmp_path / ".outer.0123abcd.partial"
    (scratch / "replaced").mkdir(parents=True)
    (scratch / "replaced" / "precious").write_text("old")
    (scratch / "out").mkdir()
    other.mkdir()
    with output_lock(tmp_path / "out"):
        assert not scratch.exists()
    assert (tmp_path / "out" / "precious").read_text() == "old"
    assert other.exists()


# Memory


@pytest.fixture
def mapped(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Path]]:
    """The files that activations were mapped from."""
    paths: list[Path] = []
    real = Activations.__init__

    def watched(self: Activations, shape: tuple[int, int, int], path: Path | None = None) -> None:
        real(self, shape, path)
        if path is not None:
            paths.append(path)

    monkeypatch.setattr(Activations, "__init__", watched)
    return paths


def test_a_memory_limit_changes_no_byte(
    source: Path, workspace: Path, options: ConvertOptions, undisturbed: dict[str, str], mapped: list[Path]
) -> None:
    job = conversion.prepare(str(source), workspace / "out", options)
    need = memory_need(job.checkpoint, job.decoder, job.plan, job.settings, job.calibration)
    convert(source, workspace / "out", options, memory_limit=need.least + need.activations)
    assert mapped == []
    for limit in (need.least, need.least + need.activations - 1):
        mapped.clear()
        convert(source, workspace / "out", options, memory_limit=limit)
        assert [path.parent.name for path in mapped] == [
            WORK
        ] * 4  # two chains for the blocks, two for the pass over all
        assert contents(workspace / "out") == undisturbed
        assert [path.name for path in workspace.iterdir()] == ["out"]


def test_too_small_a_limit_is_refused_at_once(source: Path, tmp_path: Path, command: CommandServer) -> None:
    result = command(
        "convert", source, tmp_path / "out", "--group-size", "32", "--seqlen", "32", "--memory-limit", "100 MB"
    )
    error, hint = result.stderr.splitlines()
    assert error.startswith("error: memory-limit is 100 MB; about 3")
    assert error.endswith(" MB")
    assert hint.startswith("hint: --memory-limit 3")
    assert (result.status, "torch" in result.modules, list(tmp_path.iterdir())) == (2, False, [])


@pytest.mark.parametrize(
    ("text", "size"),
    [("4GB", 4_000_000_000), ("512 MiB", 512 << 20), ("1.5g", 1_500_000_000), ("2GiB", 2 << 30), ("1000", 1000)],
)
def test_sizes(text: str, size: int) -> None:
    assert parse_size("memory-limit", text) == size


@pytest.mark.parametrize("text", ["", "4 cats", "GB", "-4GB", "0", "1e400", "4GBB", "9999999TB"])
def test_what_is_no_size(text: str) -> None:
    with pytest.raises(UsageError, match=f"memory-limit is `{text}`, which is no size") as caught:
        parse_size("memory-limit", text)
    assert "--memory-limit 4GB" in str(caught.value.hint)
