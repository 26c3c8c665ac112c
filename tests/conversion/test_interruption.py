"""Ctrl-C and SIGTERM in the middle of a conversion: the exit status says so, and nothing but finished blocks is left."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from command_server import CommandServer, Moment

from ovround.artifact.manifest import check_files, read_manifest

resource = pytest.importorskip("resource")  # Windows has neither it nor such signals

pytestmark = pytest.mark.slow

SIGNALS = {signal.SIGINT: (130, "stopped; nothing was kept"), signal.SIGTERM: (143, "terminated; nothing was kept")}
KEPT = re.compile(r"(stopped|terminated); (\d) of 6 blocks are kept in `(.*)`; the same command continues")
TUNED = ("--iters", "1000", "--nsamples", "8", "--seqlen", "32", "--group-size", "64")


def cpu_s(pid: int | None = None) -> float:
    """What a process has computed; without one, what the children of this one had when they ended."""
    if pid is None:
        usage = resource.getrusage(resource.RUSAGE_CHILDREN)
        return usage.ru_utime + usage.ru_stime
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


@pytest.mark.parametrize("moment", ["checking the checkpoint", "block 1/6"])
@pytest.mark.parametrize("number", SIGNALS)
def test_a_real_process(tmp_path: Path, number: signal.Signals, moment: str) -> None:
    """`python -m ovround convert`, stopped while it imports torch and while it tunes."""
    folder = tmp_path / "workspace"
    folder.mkdir()
    words = [sys.executable, "-m", "ovround", "convert", "demo", str(folder / "new" / "out"), *TUNED]
    words[words.index("1000")] = "4"
    earlier_s = cpu_s()
    process = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    for line in process.stderr:
        if line.startswith(moment):
            break
    if moment == "checking the checkpoint":
        time.sleep(0.2)  # torch's import takes longer, on any machine
    process.send_signal(number)
    before_s = cpu_s(process.pid)
    out, err = process.communicate(timeout=240)
    status, message = SIGNALS[number]
    assert process.returncode == status, err
    assert out == ""
    assert "Traceback" not in err
    assert cpu_s() - earlier_s - before_s < 20  # a second or two, in which what was being imported is imported
    last = err.splitlines()[-1]
    if moment == "checking the checkpoint":
        assert last == message
        assert list(folder.iterdir()) == []
        return
    kept = KEPT.fullmatch(last)
    assert kept is not None, last
    assert kept[1] == message.partition(";")[0]
    work = folder / "new" / ".out.ovround-work"
    assert kept[3] == str(work)
    blocks = {f"tuned-{layer:05d}.safetensors" for layer in range(int(kept[2]))}
    assert list(work.parent.iterdir()) == [work]
    assert {path.name for path in work.iterdir()} - {"tuned-quality.json"} == {"job.json", *blocks}


@pytest.mark.parametrize(
    ("number", "existing"), [(signal.SIGINT, False), (signal.SIGTERM, True)], ids=["Ctrl-C, new", "SIGTERM, replacing"]
)
def test_any_moment(
    tmp_path: Path, tiny_source: Path, loaded_command: CommandServer, number: signal.Signals, existing: bool
) -> None:
    """From the first line of code to the last rename of a conversion that takes a fraction of a second."""
    options = ("--recipe", "rtn", "--group-size", "32", "--format", "openvino", "--format", "onnx")
    status, message = SIGNALS[number]
    folder = tmp_path / "workspace"
    folder.mkdir()
    before = []
    if existing:
        assert loaded_command("convert", tiny_source, folder / "out", *options, "--seed", "1").status == 0
        before = ["out"]
    undisturbed = loaded_command("convert", tiny_source, tmp_path / "other", *options, moment=Moment(0, 0))
    assert undisturbed.status == 0, undisturbed.stderr
    stopped = 0
    for part in (0.02, 0.2, 0.4, 0.6, 0.8, 0.97, 0.999):
        moment = Moment(number, int(undisturbed.calls * part))
        result = loaded_command("convert", tiny_source, folder / "out", *options, moment=moment)
        if result.status == 0:
            assert part > 0.9, "the end came much earlier than in the undisturbed command"
            break
        stopped += 1
        assert (result.status, result.stdout) == (status, ""), result.stderr
        assert result.stderr.splitlines()[-1] == message
        assert [path.name for path in folder.iterdir()] in (before, ["out"])  # the last rename may have happened
        for format_name in ("openvino", "onnx") if (folder / "out").exists() else ():
            check_files(folder / "out" / format_name, read_manifest(folder / "out" / format_name), contents=True)
    assert stopped >= 5


@pytest.mark.parametrize("number", SIGNALS)
def test_in_the_middle_of_tuning(tmp_path: Path, loaded_command: CommandServer, number: signal.Signals) -> None:
    folder = tmp_path / "workspace"
    folder.mkdir()
    status, message = SIGNALS[number]
    for call in (1, 5, 60):
        moment = Moment(number, call, "backward")
        result = loaded_command("convert", "demo", folder / "out", *TUNED, moment=moment)
        assert (result.status, result.stdout) == (status, ""), result.stderr
        assert result.stderr.splitlines()[-1] == message
        assert list(folder.iterdir()) == []
