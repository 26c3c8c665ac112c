"""The manifest `ovround.json` proves that a folder is complete and that none of its files has changed."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from command_server import CommandServer

from ovround.artifact.manifest import MANIFEST, check_files, read_manifest
from ovround.errors import ArtifactError


def test_a_folder_without_its_manifest_is_not_complete(tiny_folders: dict[str, Path], tmp_path: Path) -> None:
    folder = Path(shutil.copytree(tiny_folders["onnx"], tmp_path / "out"))
    (folder / MANIFEST).unlink()
    with pytest.raises(ArtifactError, match=f"has no {MANIFEST}"):
        read_manifest(folder)


@pytest.mark.parametrize("engine", ["openvino", "onnx"])
def test_every_file_is_in_the_manifest_and_any_change_is_found(
    tiny_folders: dict[str, Path], tmp_path: Path, engine: str
) -> None:
    folder = Path(shutil.copytree(tiny_folders[engine], tmp_path / "out"))
    manifest = read_manifest(folder)
    assert {*manifest.files, MANIFEST} == {path.name for path in folder.iterdir()}
    for name in manifest.files:
        path = folder / name
        content = path.read_bytes()
        middle = len(content) // 2
        damaged = {
            "changed": content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :],
            "cut": content[:-1],
            "grown": content + b"\0",
        }
        for kind, damaged_content in damaged.items():
            path.write_bytes(damaged_content)
            message = "has changed since it was written" if kind == "changed" else f"{len(content)} were written"
            with pytest.raises(ArtifactError, match=message) as caught:
                check_files(folder, manifest, contents=True)
            assert str(path) in str(caught.value)
        path.unlink()
        with pytest.raises(ArtifactError, match="is missing"):
            check_files(folder, manifest, contents=False)
        path.write_bytes(content)
    check_files(folder, manifest, contents=True)


def manifest_json(**changes: object) -> str:
    return json.dumps({"format_version": 1, "quality": None, "weights": [], "blocks": [], "files": {}, **changes})


RECORD = {"size_bytes": 1, "sha256": ""}
COMPLETE = {
    "ovround_version": "0.1.0", "format": "onnx", "source_name": "x", "model_type": "llama", "source_files": {}, "options": {},
    "versions": {},
}  # fmt: skip
WEIGHT = {
    "name": "a", "shape": [2, 2], "bits": 4, "group_size": 2, "symmetric": True, "size_bytes": 2, "sha256": "", "relative_error": 0.5,
}  # fmt: skip


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "cannot be read"),
        ("[" * 100_000, "cannot be read"),
        ("[]", "is not a manifest"),
        ("{}", "is not a manifest"),
        (
            manifest_json(format_version=99, ovround_version="9.0"),
            "has format 99, written by ovround 9.0; this ovround, 0.1.0, reads format 1",
        ),
        (manifest_json(), "is not a manifest"),
        (manifest_json(weights=[{}]), "is not a manifest"),
        (manifest_json(files=[]), "is not a manifest"),
        (manifest_json(files={"model.onnx": 7}), "is not a manifest"),
        *[
            (manifest_json(**COMPLETE, files={name: RECORD}), "names a file outside its folder: `")
            for name in ("../../etc/passwd", "/etc/passwd", "a/../../b", "..", "", "c:x", "..\\x", "a\0")
        ],
        (manifest_json(**COMPLETE, files={"a": {**RECORD, "size_bytes": -1}}), "files.a has -1 bytes"),
        (manifest_json(**{**COMPLETE, "source_name": 7}), "source_name is 7; a text is needed"),
        (
            manifest_json(**COMPLETE, weights=[{**WEIGHT, "bits": "4"}]),
            "weights[0].bits is '4'; a whole number is needed",
        ),
        (manifest_json(**COMPLETE, weights=[{**WEIGHT, "shape": 5}]), "weights[0].shape is 5; a list is needed"),
        (manifest_json(**COMPLETE, weights=[{**WEIGHT, "shape": [10**400]}]), "weights[0].shape[0] is 1000"),
        (manifest_json(**COMPLETE, weights=[{**WEIGHT, "size_bytes": None}]), "weights[0].size_bytes is None"),
        (
            manifest_json(**COMPLETE, weights=[{**WEIGHT, "relative_error": "0"}]),
            "relative_error is '0'; a number is needed",
        ),
        (manifest_json(**COMPLETE, weights=[{**WEIGHT, "symmetric": 1}]), "symmetric is 1; true or false is needed"),
        (manifest_json(**COMPLETE, files={"a": {"size_bytes": True, "sha256": ""}}), "size_bytes is True"),
        (manifest_json(**COMPLETE, quality={"tokens": 1}), "quality.perplexity_original is missing"),
        (manifest_json(**COMPLETE, extra=1), "extra is not known"),
    ],
)
def test_damaged_manifests_are_named(tmp_path: Path, command: CommandServer, content: str, message: str) -> None:
    (tmp_path / MANIFEST).write_text(content)
    result = command("inspect", tmp_path)
    first = result.stderr.splitlines()[0]
    assert first.startswith(f"error: `{tmp_path / MANIFEST}`")
    assert message in first
    assert (result.status, result.stdout, len(result.stderr.splitlines()) <= 2) == (1, "", True)
