"""The audit fails only for a known vulnerability."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import pytest

PATH = Path(__file__).resolve().parents[2] / "tools" / "audit.py"


@pytest.mark.parametrize(
    ("answer", "status", "output"),
    [
        ({"dependencies": [{"name": "a", "version": "1", "vulns": []}]}, 0, "1 packages, 0 known"),
        ({"dependencies": [{"name": "a", "version": "1", "vulns": [{"id": "CVE-1", "fix_versions": ["2"]}]}]}, 1, "a 1: CVE-1"),
        ({"dependencies": [{"name": "a", "skip_reason": "not there"}]}, 0, "1 packages, 0 known"),
        ({}, 0, "not audited"),
        ("", 0, "not audited"),
    ],
)  # fmt: skip
def test_judgement(answer: object, status: int, output: str, capsys: pytest.CaptureFixture[str]) -> None:
    spec = importlib.util.spec_from_file_location("audit", PATH)
    assert spec is not None
    assert spec.loader is not None
    audit = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(audit)
    text = answer if isinstance(answer, str) else json.dumps(answer)
    assert audit.assess(text, "connection refused") == status
    assert output in capsys.readouterr().out
