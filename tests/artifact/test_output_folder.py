"""The output folder is complete or absent: replacement of older folders, full disks, and a failure at every step."""

from __future__ import annotations

import itertools
import os
import re
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from command_server import CommandServer
from failing_steps import FailAt, broken, contents, forbidden, full, interrupted
from mutations import SCALE

from ovround.artifact.manifest import MANIFEST, check_files, read_manifest
from ovround.artifact.output_folder import atomic_folder
from ovround.conversion.convert import convert
from ovround.errors import OutputError
from ovround.options.convert_options import ConvertOptions
from ovround.progress import Progress

ROUNDED = ConvertOptions(formats=("onnx",), recipe="rtn", group_size=32)
BOTH = ConvertOptions(formats=("openvino", "onnx"), recipe="rtn", group_size=32)


def assert_complete(folder: Path) -> None:
    check_files(folder, read_manifest(folder), contents=True)


@pytest.fixture
def output_root(tmp_path: Path) -> Path:
    folder = tmp_path / "output"
    folder.mkdir()
    return folder


# Files and folders that already exist at OUT


def test_missing_parents_are_made(tiny_source: Path, output_root: Path) -> None:
    (folder,) = convert(tiny_source, output_root / "a" / "b" / "out", ROUNDED).folders
    assert folder == output_root / "a" / "b" / "out"
    assert_complete(folder)
    assert [path.name for path in folder.parent.iterdir()] == ["out"]


def test_an_empty_folder_is_filled(tiny_source: Path, output_root: Path) -> None:
    (output_root / "out").mkdir()
    convert(tiny_source, output_root / "out", ROUNDED)
    assert_complete(output_root / "out")


def test_a_folder_of_ours_is_replaced_whatever_its_formats(tiny_source: Path, output_root: Path) -> None:
    out = output_root / "out"
    convert(tiny_source, out, ROUNDED)
    convert(tiny_source, out, BOTH)
    assert sorted(path.name for path in out.iterdir()) == ["onnx", "openvino"]
    for engine in ("onnx", "openvino"):
        assert_complete(out / engine)
    convert(tiny_source, out, ROUNDED)
    assert_complete(out)
    assert not (out / "onnx").exists()
    assert [path.name for path in output_root.iterdir()] == ["out"]


@pytest.mark.parametrize(
    ("name", "inside"),
    [("notes.txt", ""), ("sub/notes.txt", ""), ("notes.txt", "onnx"), ("notes.txt", "openvino")],
)
def test_what_we_did_not_write_is_never_removed(tiny_source: Path, output_root: Path, name: str, inside: str) -> None:
    out = output_root / "out"
    convert(tiny_source, out, BOTH if inside else ROUNDED)
    precious = out / inside / name
    precious.parent.mkdir(exist_ok=True)
    precious.write_text("do not lose this")
    before = contents(output_root)
    foreign = precious.relative_to(out).as_posix()
    with pytest.raises(OutputError, match=f"holds `{foreign}`, which ovround did not write") as caught:
        convert(tiny_source, out, ROUNDED)
    assert caught.value.hint == "choose another output folder, or remove it"
    assert contents(output_root) == before


def make_foreign(kind: str, out: Path) -> None:
    if kind == "folder with a file":
        out.mkdir()
        (out / "thesis.txt").write_text("years of work")
    elif kind == "folder with a folder":
        (out / "openvino").mkdir(parents=True)
    elif kind == "manifest that is none":
        out.mkdir()
        (out / MANIFEST).write_text("{}")
    elif kind == "file":
        out.write_text("years of work")
    elif kind == "link to a folder":
        out.symlink_to(out.parent)
    else:
        out.symlink_to("nowhere")


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("folder with a file", "`{}` holds `thesis.txt`, which ovround did not write"),
        ("folder with a folder", "`{}` holds `openvino`, which ovround did not write"),
        ("manifest that is none", "`{}` holds `ovround.json`, which ovround did not write"),
        ("file", "`{}` exists and is no folder"),
        ("link to a folder", "`{}` exists and is no folder"),
        ("dangling link", "`{}` exists and is no folder"),
    ],
)
def test_other_things_at_out_are_refused_at_once(
    tiny_source: Path, output_root: Path, command: CommandServer, kind: str, message: str
) -> None:
    out = output_root / "out"
    make_foreign(kind, out)
    result = command("convert", tiny_source, out, "--group-size", "32")
    first, hint = result.stderr.splitlines()
    assert first == f"error: {message.format(out)}"
    assert hint.startswith("hint: choose another output folder")
    assert (result.status, result.stdout, "torch" in result.modules) == (1, "", False)
    assert [path.name for path in output_root.iterdir()] == ["out"]


def test_a_file_in_the_place_of_a_parent_is_refused(
    tiny_source: Path, output_root: Path, command: CommandServer
) -> None:
    (output_root / "file").write_text("")
    result = command("convert", tiny_source, output_root / "file" / "out", "--group-size", "32")
    assert result.stderr.splitlines()[0] == f"error: `{output_root / 'file'}` cannot be written to"
    assert (result.status, "torch" in result.modules) == (1, False)


def test_a_name_that_is_too_long_is_refused(tiny_source: Path, output_root: Path, command: CommandServer) -> None:
    out = output_root / ("x" * 300)
    result = command("convert", tiny_source, out, "--group-size", "32")
    assert result.stderr.startswith(f"error: `{out}` cannot be written: ")
    assert (result.status, len(result.stderr.splitlines()), "torch" in result.modules) == (1, 1, False)


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may write everywhere")
def test_a_parent_that_cannot_be_written_to_is_refused(
    tiny_source: Path, output_root: Path, command: CommandServer
) -> None:
    output_root.chmod(0o500)
    result = command("convert", tiny_source, output_root / "out", "--group-size", "32")
    output_root.chmod(0o700)
    assert result.stderr.splitlines()[0] == f"error: `{output_root}` cannot be written to"
    assert (result.status, "torch" in result.modules) == (1, False)


def test_out_may_be_relative(tiny_source: Path, output_root: Path, loaded_command: CommandServer) -> None:
    result = loaded_command("convert", tiny_source, "a/out", "--group-size", "32", "--recipe", "rtn", cwd=output_root)
    assert result.status == 0, result.stderr
    assert_complete(output_root / "a" / "out")


def test_files_get_the_rights_that_the_user_gives(tiny_source: Path, output_root: Path) -> None:
    mask = os.umask(0o027)
    try:
        (folder,) = convert(tiny_source, output_root / "out", ROUNDED).folders
    finally:
        os.umask(mask)
    assert folder.stat().st_mode & 0o777 == 0o750
    assert {path.stat().st_mode & 0o777 for path in folder.iterdir()} == {0o640}


# A failure at every step


@pytest.fixture(scope="module")
def failing() -> FailAt:
    return FailAt()


ERRORS = {"full disk": full, "broken disk": broken, "no permission": forbidden, "Ctrl-C": KeyboardInterrupt}


@pytest.mark.slow
@pytest.mark.parametrize("kind", ERRORS)
def test_a_failure_at_any_step_leaves_nothing(tiny_source: Path, output_root: Path, failing: FailAt, kind: str) -> None:
    out = output_root / "new" / "out"
    undisturbed = contents(convert(tiny_source, output_root.parent / "other" / "out", ROUNDED).folders[0])
    for step in interrupted(failing, output_root, ERRORS[kind], lambda: convert(tiny_source, out, ROUNDED)):
        left = contents(output_root)
        if left:  # the last step, the sync of the parent, comes after the rename
            assert contents(out) == undisturbed, step
            shutil.rmtree(output_root / "new")
    assert contents(out) == undisturbed
    assert [path.name for path in out.parent.iterdir()] == ["out"]


@pytest.mark.slow
@pytest.mark.parametrize("kind", ERRORS)
def test_a_failure_at_any_step_leaves_the_old_folder_or_the_new_one(
    tiny_source: Path, output_root: Path, failing: FailAt, kind: str
) -> None:
    out = output_root / "out"
    new = contents(convert(tiny_source, output_root.parent / "other" / "out", ROUNDED).folders[0])
    convert("demo", out, ROUNDED)
    old = contents(out)
    seen = []
    for step in interrupted(failing, output_root, ERRORS[kind], lambda: convert(tiny_source, out, ROUNDED)):
        assert [path.name for path in output_root.iterdir()] == ["out"], step
        seen.append(contents(out))
        assert seen[-1] in (old, new), step
    assert contents(out) == new
    assert seen[0] == old


@pytest.mark.slow
def test_a_failure_while_openvino_writes(tiny_source: Path, output_root: Path, failing: FailAt) -> None:
    for step in interrupted(
        failing, output_root, full, lambda: convert(tiny_source, output_root / "out", BOTH), max(6 // SCALE, 1)
    ):
        if contents(output_root):
            assert_complete(output_root / "out" / "onnx")
            shutil.rmtree(output_root / "out")
        assert list(output_root.iterdir()) == [], step
    for engine in BOTH.formats:
        assert_complete(output_root / "out" / engine)


@pytest.mark.parametrize(
    ("error", "message", "hint"),
    [
        (
            full, r"the disk is full while writing `{}`: \d+ MB are free, about \d+ MB are needed in all; nothing was kept",
            "free some space and run again",
        ),
        (broken, r"`{}` cannot be written: \[Errno 5\] Input/output error", None),
        (forbidden, r"`{}` cannot be written: \[Errno 13\] Permission denied", None),
    ],
)  # fmt: skip
def test_what_is_said_of_a_disk(
    tiny_source: Path, output_root: Path, failing: FailAt, error: Callable[[], OSError], message: str, hint: str | None
) -> None:
    for step in (6, 20):
        failing.arm(output_root, step, error())
        with pytest.raises(OutputError) as caught:
            convert(tiny_source, output_root / "out", ROUNDED)
        assert re.fullmatch(message.format(re.escape(str(output_root / "out"))), str(caught.value))
        assert caught.value.hint == hint
        assert list(output_root.iterdir()) == []


@pytest.mark.slow
def test_a_short_write_at_any_step(tiny_source: Path, output_root: Path, failing: FailAt) -> None:
    """From each step on, the system accepts only the first 700 bytes of a file."""
    resource = pytest.importorskip("resource")
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    undisturbed = contents(convert(tiny_source, output_root.parent / "other" / "out", BOTH).folders[0].parent)
    failed = 0
    for step in itertools.count(1, max(6 // SCALE, 1)):
        failing.arm(output_root, step, lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (700, limits[1])))
        try:
            error = failure_of(lambda: convert(tiny_source, output_root / "out", BOTH))
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        unmet, failing.left = failing.left, 0
        if error is None:
            assert contents(output_root / "out") == undisturbed
            shutil.rmtree(output_root / "out")
        else:
            failed += 1
            assert error.startswith((TOO_LARGE.format(output_root / "out"), "OpenVINO could not write `")), step
        assert list(output_root.iterdir()) == []
        if unmet:
            break
    assert failed > 5


def test_an_application_may_stop_the_job_from_its_callback(tiny_source: Path, output_root: Path) -> None:
    class StopError(Exception):
        pass

    all_stages = ["check", "quantise", "quantise", "write", "verify"]
    for count in range(1, len(all_stages) + 1):
        stages: list[str] = []

        def stop(progress: Progress, stages: list[str] = stages, last: int = count) -> None:
            stages.append(progress.stage)
            if len(stages) == last:
                raise StopError

        with pytest.raises(StopError):
            convert(tiny_source, output_root / "new" / "out", ROUNDED, stop)
        assert stages == all_stages[:count]
        assert list(output_root.iterdir()) == []


def test_any_exception_inside_leaves_nothing(output_root: Path) -> None:
    def fail() -> None:
        with atomic_folder(output_root / "a" / "out") as work:
            (work / "file").write_text("x")
            assert work.name == "out"
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert list(output_root.iterdir()) == []


# Disks that are really full


FULL = "the disk is full while writing `{}`"
TOO_LARGE = "`{}` needs a file larger than may be written here; nothing was kept"
OPENVINO_FULL = "OpenVINO could not write `openvino_model.xml`: "


@pytest.mark.parametrize("file_size", [1_000, 30_000, 70_000, 200_000, 430_000, 880_000])
def test_a_limit_on_file_sizes(output_root: Path, loaded_command: CommandServer, file_size: int) -> None:
    result = loaded_command("convert", "demo", output_root / "out", "--recipe", "rtn", "--quiet", file_size=file_size)
    assert result.stderr.splitlines() == [
        f"error: {TOO_LARGE.format(output_root / 'out')}",
        "hint: raise the limit on the size of files (`ulimit -f`), or choose another disk",
    ]
    assert (result.status, result.stdout, list(output_root.iterdir())) == (1, "", [])


def test_a_limit_that_only_openvinos_own_writer_meets(
    tiny_source: Path, tiny_folders: dict[str, Path], output_root: Path, loaded_command: CommandServer
) -> None:
    sizes = {path.name: path.stat().st_size for path in tiny_folders["openvino"].iterdir()}
    graph = sizes.pop("openvino_model.xml")
    assert graph > max(sizes.values()) + 1000
    options = ("--recipe", "rtn", "--quiet", "--group-size", "32", "--asym")
    result = loaded_command("convert", tiny_source, output_root / "out", *options, file_size=graph - 1000)
    first, hint = result.stderr.splitlines()
    assert first.startswith(f"error: {OPENVINO_FULL}")
    assert hint == "hint: free some space and run again"
    assert (result.status, result.stdout, list(output_root.iterdir())) == (1, "", [])


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """An empty file system of 64 MB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    try:
        mounted = subprocess.run(
            ["mount", "-t", "tmpfs", "-o", "size=64m", "tmpfs", folder], capture_output=True, check=False
        )
    except FileNotFoundError:
        pytest.skip("there is no mount command")
    if mounted.returncode:
        pytest.skip("file systems may not be mounted here")
    yield folder
    subprocess.run(["umount", folder], check=True)


def test_a_disk_that_fills_up(small_disk: Path, output_root: Path) -> None:
    """Each run finds more free space after its start, until the space is enough."""
    out, filler, options = small_disk / "out", small_disk / "filler", ConvertOptions(recipe="rtn", group_size=64)
    undisturbed = contents(convert("demo", output_root / "out", options).folders[0])
    messages = set()
    for room in itertools.count(0, 150_000):

        def fill(progress: Progress, room: int = room) -> None:
            if progress.stage == "check":
                with filler.open("wb") as file:
                    os.posix_fallocate(file.fileno(), 0, shutil.disk_usage(small_disk).free - room)

        error = failure_of(lambda: convert("demo", out, options, fill))
        if error is None:
            break
        messages.add(error.partition(": ")[0])
        assert [path.name for path in small_disk.iterdir()] == ["filler"]
        filler.unlink()
    assert messages <= {FULL.format(out), *(f"OpenVINO could not write `{name}`" for name in undisturbed)}
    assert FULL.format(out) in messages
    assert room > 1_000_000
    assert contents(out) == undisturbed


def failure_of(work: Callable[[], object]) -> str | None:
    try:
        work()
    except OutputError as error:
        return str(error)
    return None


def test_too_little_space_is_found_before_anything_is_done(small_disk: Path, command: CommandServer) -> None:
    (small_disk / "filler").write_bytes(bytes(40 << 20))
    result = command("convert", "demo", small_disk / "out")
    first, hint = result.stderr.splitlines()
    assert re.fullmatch(rf"error: `{small_disk}` has 25 MB free; about 3\d MB are needed", first)
    assert hint == "hint: free some space, or choose an output folder on another disk"
    assert (result.status, "torch" in result.modules) == (1, False)
