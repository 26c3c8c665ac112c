"""Vercel's AI SDK, whose default OpenAI model speaks the Responses API, in node and from npm."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.slow
PACKAGES = ("@ai-sdk/openai", "ai")  # npm takes the newest versions for the node that there is


@pytest.fixture(scope="module")
def script(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The client's program beside its packages."""
    npm = shutil.which("npm")
    if npm is None or shutil.which("node") is None:
        pytest.skip("node is not installed")
    folder = tmp_path_factory.mktemp("ai-sdk")
    command = [npm, "install", "--no-audit", "--no-fund", "--silent", "--prefix", str(folder), *PACKAGES]
    installed = subprocess.run(command, capture_output=True, text=True, timeout=300)
    if installed.returncode:
        pytest.skip(f"npm cannot fetch the packages: {installed.stderr.strip()[-200:]}")
    return Path(shutil.copy(Path(__file__).parent / "ai_sdk.mjs", folder))


@pytest.mark.parametrize("served", ["onnx"], indirect=True)
def test_the_default_model(served: Any, script: Path) -> None:
    run = subprocess.run(["node", str(script), served.url], capture_output=True, text=True, timeout=300)
    assert run.returncode == 0, run.stderr
    seen = json.loads(run.stdout.splitlines()[-1])
    question = {"role": "user", "content": "How do I open a file?"}
    expected = served.llm.chat([question], max_new_tokens=8)
    assert seen["first"] == seen["streamed"] == expected.text
    assert seen["finish"] == expected.finish_reason
    assert seen["usage"]["inputTokens"] == expected.prompt_tokens
    chat = [question, {"role": "assistant", "content": expected.text}, {"role": "user", "content": "And close it?"}]
    assert seen["second"] == served.llm.chat(chat, max_new_tokens=8).text
    assert seen["steps"] == 2
    ((given, result),) = seen["results"]
    assert result == given["n"] + 1
    assert seen["kinds"].count("tool-input-delta") > 1
    assert "tool-call" in seen["kinds"]
