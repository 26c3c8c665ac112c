"""The tokenizer's graphs are written in a process without torch, and are those that this process writes."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from checkpoint_writer import write_tokenizer as write_files
from gguf_writer import write_tiny

from ovround.errors import CheckpointError
from ovround.exporters.openvino import tokenizer
from ovround.exporters.openvino.tokenizer_graphs import write_graphs

_CONVERT = """
import json, sys
from ovround import convert
convert(sys.argv[1], sys.argv[2])
print(json.dumps([name for name in ("torch", "transformers") if name in sys.modules]))
"""
_GRAPHS = [f"openvino_{name}.{kind}" for name in ("tokenizer", "detokenizer") for kind in ("xml", "bin")]


def _source(folder: Path) -> Path:
    folder.mkdir()
    write_files(folder)
    (folder / "config.json").write_text('{"model_type": "llama"}')
    return folder


def test_a_conversion_that_tunes_nothing_imports_no_torch(tmp_path: Path) -> None:
    write_tiny(tmp_path / "model" / "tiny.gguf")
    command = [sys.executable, "-c", _CONVERT, str(tmp_path / "model" / "tiny.gguf"), str(tmp_path / "out")]
    answer = subprocess.run(command, capture_output=True, text=True, check=True)
    assert json.loads(answer.stdout.splitlines()[-1]) == []
    assert "PyTorch was not found" not in answer.stderr
    assert all((tmp_path / "out" / name).is_file() for name in _GRAPHS)


def test_both_processes_write_the_same(tmp_path: Path) -> None:
    source = _source(tmp_path / "source")
    for name in ("here", "apart"):
        (tmp_path / name).mkdir()
    write_graphs(source, tmp_path / "here")
    assert tokenizer._written_apart(source, tmp_path / "apart")
    for name in _GRAPHS:
        assert (tmp_path / "apart" / name).read_bytes() == (tmp_path / "here" / name).read_bytes(), name


def test_what_the_other_process_cannot_write_is_reported_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = _source(tmp_path / "source")
    (source / "tokenizer.json").write_text('{"model": {"type": "Nothing"}}')
    (tmp_path / "out").mkdir()
    assert not tokenizer._written_apart(source, tmp_path / "out")
    with pytest.raises(CheckpointError, match="cannot be converted for OpenVINO"):
        tokenizer.write_tokenizer(source, tmp_path / "out")
    monkeypatch.setattr(sys, "executable", str(tmp_path / "absent"))
    assert not tokenizer._written_apart(source, tmp_path / "out")
