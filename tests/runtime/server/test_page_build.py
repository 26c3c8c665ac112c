"""The chat page's file: what its policy allows, and that it is what its sources give."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from ovround.runtime.server.chat_page import PAGE, policy


def test_the_policy_allows_this_page_alone() -> None:
    page = PAGE.read_text(encoding="utf-8")
    assert page.count("<script>") == page.count("<style>") == 1
    assert "unsafe" not in policy(page)
    assert policy(page) != policy(page.replace("</script>", " </script>"))


@pytest.mark.slow
def test_the_page_is_what_its_sources_give(tmp_path: Path) -> None:
    npm = shutil.which("npm")
    if npm is None:
        pytest.skip("no npm on the path")
    root = PAGE.parents[2]
    copy = shutil.copytree(
        PAGE.parent / "page", tmp_path / "a" / "b" / "server" / "page", ignore=shutil.ignore_patterns("node_modules")
    )
    install = subprocess.run(
        [npm, "ci", "--no-audit", "--no-fund"], cwd=copy, capture_output=True, text=True, timeout=300
    )
    if install.returncode:
        pytest.skip(f"npm's registry does not answer: {install.stderr[-300:]}")
    subprocess.run([npm, "run", "build"], cwd=copy, check=True, capture_output=True, timeout=120)
    assert (copy.parent / "chat.html").read_bytes() == PAGE.read_bytes()
    assert (tmp_path / "a" / "THIRD_PARTY.md").read_bytes() == (root / "THIRD_PARTY.md").read_bytes()
