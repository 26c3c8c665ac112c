"""The notebooks of examples/, cell by cell, as a kernel runs them: with `await` at the top of a cell."""

from __future__ import annotations

import ast
import asyncio
import inspect
import json
from pathlib import Path

import pytest

NOTEBOOKS = sorted((Path(__file__).resolve().parents[2] / "examples" / "notebooks").glob("*.ipynb"))
pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


def test_there_are_notebooks() -> None:
    assert NOTEBOOKS


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_cells_run(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    sources = ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"]
    assert all(cell.get("outputs", []) == [] for cell in cells)  # none is committed: they go stale
    names: dict[str, object] = {"__name__": "__main__"}

    async def run() -> list[str]:
        printed = []
        for source in sources:
            code = compile(source, path.name, "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
            result = eval(code, names)  # noqa: S307  our own notebook, run as a kernel runs it
            if inspect.iscoroutine(result):
                await result
            printed.append(capsys.readouterr().out)
        return printed

    printed = asyncio.run(run())
    assert sum(bool(text.strip()) for text in printed) >= len(sources) - 1, printed  # all but the imports
    four, two = (float(line.split("KL ")[1].split()[0]) for line in printed[-1].splitlines())
    assert 0 < four < two
