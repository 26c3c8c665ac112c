"""Folders with code, links and archive bombs through every command: no code is executed, and no file outside is read.

Python's audit hook watches each command (`audit_hook`); a canary file would show code that native code has executed.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from command_server import CommandServer, Result
from payloads import PAYLOADS, PRIVATE, staged

from ovround.checkpoint.files.small_files import check_links
from ovround.errors import CheckpointError

SERVE = """
import sys
from pathlib import Path
from ovround.errors import OvroundError
from ovround.runtime.server.launcher import open_engine_client
from ovround.runtime.server.settings import ServerSettings
from ovround.telemetry import without_telemetry
without_telemetry()
for folder in sys.argv[1:]:
    try:
        open_engine_client(Path(folder), ServerSettings("model")).close()
        print("loaded")
    except OvroundError as error:
        print("refused", error)
"""
pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")


class Watched:
    """The command line under the audit hook, which writes its complaints to `notes`."""

    def __init__(self, server: CommandServer, root: Path, notes: Path, environment: dict[str, str]) -> None:
        self.root, self.environment, self._server, self._notes = root, environment, server, notes

    def __call__(self, *arguments: object, cwd: Path | None = None, stdin: str = "") -> Result:
        return self._server(*arguments, cwd=cwd, stdin=stdin)

    def complaints(self) -> str:
        return self._notes.read_text() if self._notes.exists() else ""


@pytest.fixture(scope="module")
def watched(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Watched]:
    root = tmp_path_factory.mktemp("watched")
    notes = tmp_path_factory.mktemp("notes") / "notes"
    for name in ("commands", "scratch"):
        (root / name).mkdir()
    environment = {
        "OVROUND_TEST_AUDIT": str(notes), "OVROUND_TEST_FOLDERS": str(root), "TMPDIR": str(root / "scratch"),
        "PYTHONPATH": str(Path(__file__).parents[1] / "support"),
    }  # fmt: skip
    modules = [  # modules of the commands, imported once for all of them
        "ovround.conversion.convert", "ovround.exporters.onnx.package", "ovround.exporters.openvino.tokenizer_graphs", "ovround.check",
        "ovround.conversion.model_card", "ovround.quant.passes.tuning",
        "ovround.runtime.engines.onnx", "ovround.runtime.engines.openvino",
        "ovround.runtime.decoding.speculation", "rich.console", "sympy", "openvino_tokenizers.hf_parser",
        "transformers.modeling_utils", "audit_hook",
    ]  # fmt: skip
    with CommandServer(root / "commands", modules, environment) as server:
        yield Watched(server, root, notes, {**os.environ, **environment})


@pytest.mark.parametrize("name", PAYLOADS)
def test_a_payload_is_neither_executed_nor_read(
    name: str, watched: Watched, tiny_source: Path, tiny_folders: dict[str, Path], tmp_path: Path
) -> None:
    payload, canary, secret = PAYLOADS[name], tmp_path / "canary", tmp_path / "secret"
    secret.write_text(PRIVATE)
    root = watched.root / name.replace(" ", "-")
    sound = {"checkpoint": tiny_source, **tiny_folders}[payload.kind]
    folder, out = staged(payload, sound, root / "model", canary, secret), root / "out"
    commands: list[tuple[object, ...]] = [("inspect", folder, "--check"), ("check", folder)]
    if payload.kind == "checkpoint":
        commands.insert(
            0, ("convert", folder, out, "--recipe", "rtn", "--group-size", "32", "--quiet", "--format", payload.format)
        )
    else:
        commands.insert(0, ("run", folder, "once", "--raw", "--max-new-tokens", "2"))  # `chat` renders the template
    if "template" in name:
        commands.append(("chat", folder if payload.kind == "onnx" else out, "--max-new-tokens", "2"))
    before = watched.complaints()
    results = [watched(*words, stdin="once\n") for words in commands]
    assert results[0].status == payload.status, results[0].stderr
    assert watched.complaints() == before
    assert not canary.exists()
    for words, result in zip(commands, results, strict=True):
        assert result.status in (0, 1, 2), words
        assert "Traceback" not in result.stderr, result.stderr
        assert PRIVATE not in result.stdout + result.stderr, words
    written = [path for path in root.rglob("*") if out in path.parents and path.is_file()]
    assert not any(PRIVATE.encode() in path.read_bytes() for path in written)


def test_the_server_loads_none_either(watched: Watched, tiny_folders: dict[str, Path], tmp_path: Path) -> None:
    """Both the part of `serve` that opens a folder and its engine process are watched from their first line."""
    hooked = watched.root / "hooked"
    hooked.mkdir()
    (hooked / "sitecustomize.py").write_text("import audit_hook\naudit_hook.parent = 0\n")
    paths = os.pathsep.join([str(hooked), watched.environment["PYTHONPATH"]])
    canary, private = tmp_path / "canary", tmp_path / "private"
    private.write_text(PRIVATE)
    names = [name for name, payload in PAYLOADS.items() if payload.kind != "checkpoint"]
    folders = [
        staged(PAYLOADS[name], tiny_folders[PAYLOADS[name].kind], watched.root / f"serve-{at}", canary, private)
        for at, name in enumerate(names)
    ]
    before = watched.complaints()
    done = subprocess.run(
        [sys.executable, "-c", SERVE, *map(str, folders)],
        capture_output=True, text=True, check=False, env={**watched.environment, "PYTHONPATH": paths},
        cwd=watched.root,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    outcomes = [line for line in done.stdout.splitlines() if line.startswith(("loaded", "refused"))]
    assert [line.split()[0] for line in outcomes] == [
        "refused" if PAYLOADS[name].status else "loaded" for name in names
    ]
    assert watched.complaints() == before
    assert not canary.exists()
    assert PRIVATE not in done.stdout + done.stderr


def test_the_hook_hears(watched: Watched, tiny_source: Path, tmp_path: Path) -> None:
    """The hook reports the events that the tests above assert to be absent."""
    outside = tmp_path / "elsewhere"
    before = watched.complaints()
    watched("convert", tiny_source, outside / "out", "--recipe", "rtn", "--group-size", "32", "--format", "onnx")
    assert f"open {outside}" in watched.complaints().removeprefix(before)
    code = "import audit_hook; audit_hook.parent = 0\nimport socket, pickle, os\n"
    code += "socket.socket().bind(('127.0.0.1', 0)); pickle.loads(b'cos\\ngetcwd\\n.'); os.system('true')\n"
    code += f"exec(compile('1', {str(tmp_path / 'evil.py')!r}, 'exec'))"
    subprocess.run([sys.executable, "-c", code], check=True, env=watched.environment)
    heard = watched.complaints().removeprefix(before)
    for event in ("socket.bind", "pickle.find_class", "os.system", f"exec {tmp_path / 'evil.py'}"):
        assert event in heard


def test_a_command_from_its_first_import_on(watched: Watched, tiny_folders: dict[str, Path], tmp_path: Path) -> None:
    """Imports open no socket either; OpenVINO's telemetry would contact Google Analytics."""
    before = watched.complaints()
    code = "import audit_hook; audit_hook.parent = 0; from ovround.cli.app import main; main()"
    words = ("run", tiny_folders["openvino"], "once", "--max-new-tokens", "2")
    environment = {**watched.environment, "OVROUND_TEST_FOLDERS": str(tiny_folders["openvino"])}
    done = subprocess.run(
        [sys.executable, "-c", code, *map(str, words)], capture_output=True, text=True, check=False, env=environment
    )
    assert done.returncode == 0, done.stderr
    assert watched.complaints() == before


def test_links_within_a_hub_cache_are_followed_and_others_are_not(tiny_source: Path, tmp_path: Path) -> None:
    blobs, snapshot = tmp_path / "models--a--b" / "blobs", tmp_path / "models--a--b" / "snapshots" / "0123"
    shutil.copytree(tiny_source, blobs)
    snapshot.mkdir(parents=True)
    for path in blobs.iterdir():
        (snapshot / path.name).symlink_to(f"../../blobs/{path.name}")
    linked = tmp_path / "linked"
    linked.symlink_to(snapshot)
    for folder in (snapshot, linked):
        check_links(folder)
    (snapshot / "LICENSE").symlink_to(tmp_path / "private")
    for folder in (snapshot, linked):
        with pytest.raises(CheckpointError, match=f"`{folder / 'LICENSE'}` is a link out of its folder"):
            check_links(folder)
