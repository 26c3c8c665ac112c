"""Downloads from a local hub: what is taken, that they continue, that hashes are compared, and what is said when they fail."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from command_server import CommandServer, Result, succeeded
from hub_server import HubServer
from waiting import wait_until

from ovround.checkpoint.hub import HubName
from ovround.checkpoint.hub.choice import choose_files
from ovround.errors import CheckpointError

NAME, GGUF, LARGE = "ovround-tests/pulled", "ovround-tests/pulled-gguf", "ovround-tests/pulled-large"
SIZE = 3 << 20
PIECE = 10 << 20  # huggingface_hub writes so much at once
Pull = Callable[..., Result]


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[HubServer]:
    folder, files = tmp_path_factory.mktemp("repository"), tmp_path_factory.mktemp("gguf")
    rng = np.random.default_rng(0)
    (folder / "config.json").write_text('{"model_type": "llama"}')
    (folder / "model.safetensors").write_bytes(rng.bytes(SIZE))
    (folder / "pytorch_model.bin").write_bytes(b"the same again")
    (folder / "onnx").mkdir()
    (folder / "onnx" / "model.onnx").write_bytes(b"and again")
    (folder / "onnx" / "config.json").write_text("{}")
    for name in ("m-Q4_0.gguf", "m-Q8_0-00001-of-00002.gguf", "m-Q8_0-00002-of-00002.gguf"):
        (files / name).write_bytes(name.encode())
    large = tmp_path_factory.mktemp("large")
    (large / "model.safetensors").write_bytes(rng.bytes(2 * PIECE))
    with HubServer({NAME: folder, GGUF: files, LARGE: large}) as server:
        yield server


@pytest.fixture
def pull(hub: HubServer, command: CommandServer, tmp_path: Path) -> Iterator[Pull]:
    """`ovround pull` into an empty cache."""

    def run(*words: object, **environment: str) -> Result:
        hub.requests.clear()
        return command("pull", *words, environment=hub.environment(tmp_path) | environment)

    yield run
    for settings in (hub.cut, hub.stalled, hub.stated_sizes, hub.stated_digests, hub.gated, hub.refused, hub.tokens):
        settings.clear()


def blobs(home: Path) -> list[Path]:
    return sorted(home.rglob("blobs/*"))


def test_what_is_taken() -> None:
    def taken(*paths: str, name: str = "org/model") -> list[str]:
        parsed = HubName.parse(name)
        assert parsed is not None
        return choose_files(parsed, paths)

    small = [
        "LICENSE", "additional_chat_templates/tool_use.jinja", "chat_template.jinja", "config.json", "merges.txt",
        "qwen.tiktoken", "special_tokens_map.json", "spiece.model", "tokenizer.model", "vocab.json", "vocab.txt",
    ]  # fmt: skip
    shards = [f"model-0000{n}-of-00002.safetensors" for n in (1, 2)]
    others = [
        "onnx/model.onnx", "onnx/config.json", "original/consolidated.00.pth", "original/params.json", "tf_model.h5", "a.png",
        "flax_model.msgpack", "runs/events", "training_args.bin", "consolidated.safetensors", "model.fp16.safetensors",
        "m-Q4_0.gguf", "train.txt",
    ]  # fmt: skip
    assert taken(*small, *shards, *others, "pytorch_model.bin") == sorted([*small, *shards])
    assert taken("config.json", "pytorch_model-00001-of-00001.bin", "training_args.bin") == [
        "config.json", "pytorch_model-00001-of-00001.bin"
    ]  # fmt: skip
    assert taken("consolidated.safetensors", "params.json") == ["consolidated.safetensors", "params.json"]
    assert taken("model.fp16.safetensors") == ["model.fp16.safetensors"]
    assert taken("adapter_config.json", "adapter_model.safetensors") == [
        "adapter_config.json", "adapter_model.safetensors"
    ]  # fmt: skip
    assert taken("q/m-Q4_K_M.gguf", "m-Q8_0.gguf", "LICENSE", name="org/model:q4_k_m@v1") == [
        "LICENSE",
        "q/m-Q4_K_M.gguf",
    ]
    with pytest.raises(CheckpointError, match="has no weights that can be read") as caught:
        taken("config.json", "tf_model.h5")
    assert "its files are .h5, .json" in str(caught.value)


def test_one_set_of_weights_comes_and_a_second_pull_asks_for_no_file(
    pull: Pull, hub: HubServer, tmp_path: Path
) -> None:
    result = pull(NAME)
    assert succeeded(result).endswith(": 2 files, 3.15 MB, hashes as the hub states them\n")
    assert result.stderr.splitlines()[-1].startswith("downloading model.safetensors: 3 of 3 MB")
    folder = Path(result.stdout.rpartition(": 2 files")[0])
    assert sorted(path.name for path in folder.iterdir()) == ["config.json", "model.safetensors"]
    assert not any("onnx" in line or "pytorch" in line for line in hub.requests)
    assert succeeded(pull(NAME)) == result.stdout
    assert not any("/resolve/" in line or "/blob/" in line for line in hub.requests)
    down = pull(NAME, HF_ENDPOINT="http://127.0.0.1:9")
    assert succeeded(down) == result.stdout


def test_inspect_fetches_headers_alone(
    hub: HubServer, command: CommandServer, tmp_path: Path, tiny_source: Path
) -> None:
    hub.repositories["ovround-tests/tiny"] = tiny_source
    hub.requests.clear()
    result = command("inspect", "ovround-tests/tiny", environment=hub.environment(tmp_path))
    lines = succeeded(result).splitlines()
    assert lines[0] == "ovround-tests/tiny: checkpoint, model_type llama, can be converted"
    assert lines[1:] == succeeded(command("inspect", tiny_source)).splitlines()[1:]
    assert not any("tokenizer" in line for line in hub.requests)
    assert not list(tmp_path.rglob("blobs"))


def test_of_gguf_files_the_parts_of_one_come(pull: Pull) -> None:
    result = pull(f"{GGUF}:Q8_0")
    path = Path(succeeded(result).partition(": ")[0])
    assert path.name == "m-Q8_0-00001-of-00002.gguf"
    assert len(list(path.parent.iterdir())) == 2
    wrong = pull(f"{GGUF}:Q5_K_M")
    assert wrong.stderr.splitlines() == [
        f"error: `{GGUF}` has no `Q5_K_M`", "hint: there are: Q4_0, Q8_0"
    ]  # fmt: skip


def test_a_connection_that_is_cut_is_continued(pull: Pull, hub: HubServer) -> None:
    hub.cut["model.safetensors"] = SIZE // 2
    assert succeeded(pull(NAME))
    assert len([line for line in hub.requests if line.startswith("GET") and "/resolve/" in line]) == 3


@pytest.mark.slow
def test_a_killed_download_continues_and_two_at_once_both_end_well(hub: HubServer, pull: Pull, tmp_path: Path) -> None:
    hub.stalled["model.safetensors"] = PIECE + SIZE
    environment = {**os.environ, **hub.environment(tmp_path)}
    words = [sys.executable, "-m", "ovround", "pull", LARGE]

    def start() -> subprocess.Popen[str]:
        return subprocess.Popen(words, env=environment, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    first = start()
    wait_until(lambda: [p.stat().st_size for p in blobs(tmp_path) if p.suffix == ".incomplete"] == [PIECE])
    first.kill()
    first.communicate()
    assert first.returncode == -signal.SIGKILL
    hub.requests.clear()
    assert not list(tmp_path.rglob("snapshots/*"))
    both = [start(), start()]
    wait_until(lambda: len([line for line in hub.requests if "/blob/" in line]) > 0)
    hub.stalled.clear()
    results = [process.communicate() for process in both]
    assert [process.returncode for process in both] == [0, 0], results
    assert results[0][0] == results[1][0]
    assert len([line for line in hub.requests if "/blob/" in line]) == 1
    assert not [path for path in blobs(tmp_path) if path.suffix == ".incomplete"]
    assert any("the first from an earlier download" in said for _, said in results)
    assert succeeded(pull(LARGE)) == results[0][0]


def test_a_file_that_is_not_what_the_hub_states(pull: Pull, hub: HubServer, tmp_path: Path) -> None:
    for file, digest in (("model.safetensors", "f" * 64), ("config.json", "e" * 40)):
        hub.stated_digests = {file: digest}
        message, hint = pull(NAME).stderr.splitlines()[-2:]
        assert message.startswith(f"error: `{file}` of `{NAME}` is damaged: its hash is ")
        assert message.endswith(f"the hub states {digest[:12]}...")
        assert hint.startswith("hint: run it again")
        assert not [path for path in blobs(tmp_path) if path.suffix == ".incomplete" or path.name == digest]
    hub.stated_digests.clear()
    hub.stated_sizes["model.safetensors"] = SIZE + 5
    message, hint = pull(NAME).stderr.splitlines()[-2:]
    assert message.startswith(f"error: the download of `{NAME}` broke off: Consistency check failed")
    assert hint == "hint: run it again: it continues where it stopped"
    hub.stated_sizes.clear()
    assert succeeded(pull(NAME))


def test_a_file_that_was_damaged_on_the_disk_comes_again(pull: Pull, hub: HubServer, tmp_path: Path) -> None:
    result = pull(NAME)
    (weights,) = (path for path in blobs(tmp_path) if path.stat().st_size == SIZE)
    content = weights.read_bytes()
    weights.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    assert succeeded(pull(NAME)) == result.stdout
    assert weights.read_bytes() == content


def test_what_is_said_when_the_hub_does_not_give_it(pull: Pull, hub: HubServer, tmp_path: Path) -> None:
    start = f"`{NAME}` is no local folder, and the hub did not give it: "
    none = "`ovround-tests/none` is no local folder, and the hub did not give it: "
    cases: list[tuple[dict[str, Any], list[str], dict[str, str], str, str]] = [
        ({}, ["ovround-tests/none"], {}, none + "there is no model of that name, or it is private", "check the spelling; "),
        ({}, [f"{NAME}@v9"], {}, start.replace(NAME, f"{NAME}@v9") + "it has no revision `v9`", f"leave it out: `{NAME}`"),
        ({"gated": {NAME}}, [NAME], {}, start + "its owner must grant access first", f"ask for it at https://huggingface.co/{NAME}; "),
        ({"tokens": {"hf_right"}}, [NAME], {"HF_TOKEN": "hf_wrong"}, start + "it does not accept your token", "`hf auth login` "),
        ({"refused": {NAME: (500, "")}}, [NAME], {}, start + "it cannot be reached, and nothing", "check the network"),
        ({}, [NAME], {"HF_HUB_OFFLINE": "1"}, start + "it cannot be reached, and nothing", "check the network (and HF_HUB_OFFLINE"),
        ({"stated_sizes": {"model.safetensors": 1 << 50}}, [NAME], {}, f"`{NAME}` is a download of 1125899", "free some space, "),
        ({}, ["wrong"], {}, "`wrong` is no folder and no hub name", "give a model folder, a GGUF file, a hub name"),
        ({}, [str(tmp_path)], {}, f"`{tmp_path}` is on this disk: ", "a hub name such as org/model is downloaded"),
    ]  # fmt: skip
    for settings, words, environment, message, hint in cases:
        for name, value in settings.items():
            getattr(hub, name).update(value)
        result = pull(*words, **environment)
        for name in settings:
            getattr(hub, name).clear()
        first, second = result.stderr.splitlines()[-2:]
        assert first.startswith(f"error: {message}"), result.stderr
        assert second.startswith(f"hint: {hint}"), result.stderr
        assert result.status in (1, 2)
        assert not [path for path in blobs(tmp_path) if path.stat().st_size >= SIZE]
    hub.tokens.add("hf_right")
    assert succeeded(pull(NAME, HF_TOKEN="hf_right"))  # noqa: S106  no token of anybody
