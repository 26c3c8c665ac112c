"""Commands take whatever `convert` takes: converted once into the cache, by one process, whole or not at all."""

from __future__ import annotations

import dataclasses
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from checkpoint_writer import tiny_config, write_checkpoint
from command_server import CommandServer, Moment, Result, succeeded
from hub_server import HubServer
from measured_machine import keep_speed
from waiting import wait_until

import ovround
from ovround import cached_model
from ovround.artifact.file_lock import lock_file, unlock_file
from ovround.conversion.cache import ModelCache, cache_folder
from ovround.errors import EngineError

pytestmark = pytest.mark.slow

NAME = "ovround-tests/tiny"
WIDTHS = {"hidden_size": 128, "intermediate_size": 256, "num_attention_heads": 4, "head_dim": 32}
SHORT = ("--max-new-tokens", "4", "--exact")
Run = Callable[..., Result]


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_checkpoint(tmp_path_factory.mktemp("source") / "tiny", tiny_config(**WIDTHS))


@pytest.fixture(scope="module")
def hub(source: Path) -> Iterator[HubServer]:
    with HubServer({NAME: source}) as server:
        yield server


@pytest.fixture(scope="module")
def light_command(tmp_path_factory: pytest.TempPathFactory) -> Iterator[CommandServer]:
    """The command line in a process that has imported nothing but it."""
    with CommandServer(tmp_path_factory.mktemp("commands")) as server:
        yield server


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ModelCache:
    monkeypatch.setenv("OVROUND_CACHE", str(tmp_path / "cache"))
    keep_speed()
    return ModelCache()


@pytest.fixture
def run(loaded_command: CommandServer, hub: HubServer, tmp_path: Path, cache: ModelCache) -> Run:
    """Run a command with an empty cache and the local hub."""
    environment = {"OVROUND_CACHE": str(tmp_path / "cache"), **hub.environment(tmp_path / "hub")}

    def command(*words: object, by: CommandServer = loaded_command, **settings: Any) -> Result:
        hub.requests.clear()
        return by(*words, environment=environment | settings.pop("environment", {}), **settings)

    return command


def listed(run: Run) -> list[dict[str, Any]]:
    models: list[dict[str, Any]] = json.loads(succeeded(run("cache", "list", "--json")))["models"]
    return models


# From a name to an answer


def test_a_hub_name_is_converted_once_and_then_needs_no_network(
    run: Run, hub: HubServer, command: CommandServer, light_command: CommandServer
) -> None:
    first = run("run", NAME, "hello", *SHORT, by=command)
    answer = succeeded(first)
    lines = first.stderr.splitlines()
    assert f"`{NAME}` is not converted yet: its weights are rounded to 8 bits, for openvino, once" in lines
    assert any(line.startswith("8 bits fit best here: about ") for line in lines)
    (hint,) = (line for line in lines if line.startswith("hint: "))
    command_line = f"ovround convert {NAME} tiny-tuned"
    assert hint == f"hint: `{command_line}` tunes 4 bits: smaller, and closer to the model than rounding to them"
    assert any(re.fullmatch(r"kept in `.*/models/tiny-[0-9a-f]{12}`: \d+ MB, \d+ s", line) for line in lines)
    assert hub.requests
    second = run("run", NAME, "hello", *SHORT, by=light_command, environment={"HF_ENDPOINT": "http://127.0.0.1:9"})
    assert succeeded(second) == answer
    assert re.fullmatch(r"\d+ tokens, first after .*\n", second.stderr)
    assert not {"torch", "transformers", "huggingface_hub", "safetensors"} & second.modules
    (entry,) = listed(run)
    assert entry["models"] == [NAME]
    assert entry["identity"].endswith(f"snapshots/{hub.commit(NAME)}")
    manifest = json.loads((Path(entry["folder"]) / "ovround.json").read_text())
    assert manifest["source_name"] == NAME
    assert manifest["options"]["recipe"] == "rtn"
    at_commit = f"{NAME}@{hub.commit(NAME)}"  # another name of the same thing
    assert succeeded(run("run", at_commit, "hello", *SHORT, by=command)) == answer
    assert [entry["models"] for entry in listed(run)] == [[NAME, at_commit]]
    assert succeeded(run("run", at_commit, "hello", *SHORT, by=command)) == answer
    assert hub.requests == []


def test_every_command_that_runs_a_model_takes_a_checkpoint(run: Run, source: Path, text_file: Path) -> None:
    assert succeeded(run("chat", source, *SHORT, "--bits", "4", stdin="hello\n"))
    assert succeeded(
        run("bench", source, "--bits", "4", "--prompt-tokens", "4", "--new-tokens", "2", "--repeat", "1")
    ).startswith(f"{source} on OpenVINO")
    assert len(listed(run)) == 1
    scores = [
        json.loads(succeeded(run("eval", source, "--text", text_file, "--context", "32", "--json", *options)))
        for options in ((), ("--bits", "4"), ("--format", "onnx", "--bits", "4"))
    ]
    perplexities = [score["texts"][0]["perplexity"] for score in scores]
    assert perplexities[0] != perplexities[1] == pytest.approx(perplexities[2], rel=1e-4)
    assert sorted(entry["format"] for entry in listed(run)) == ["onnx", "openvino"]


def test_serve_takes_a_hub_name_and_clients_call_the_model_so(
    hub: HubServer, cache: ModelCache, tmp_path: Path
) -> None:
    pytest.importorskip("uvicorn")
    environment = {**os.environ, "OVROUND_CACHE": str(cache.folder.parent), **hub.environment(tmp_path / "hub")}
    command = [sys.executable, "-m", "ovround", "serve", NAME, "--port", "0", "--engine", "single", "--format", "onnx"]
    with subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True) as process:
        try:
            assert process.stderr is not None
            said = []
            for line in process.stderr:
                said.append(line)
                if line.startswith("engine: "):
                    break
            name, _, url = said[-2].strip().partition(": ") if len(said) > 1 else ("", "", "")
            assert name == NAME, "".join(said)

            def listed_models() -> list[dict[str, Any]]:
                with suppress(OSError), urllib.request.urlopen(f"{url}/v1/models") as answer:  # noqa: S310  our server
                    found: list[dict[str, Any]] = json.loads(answer.read())["data"]
                    return found
                return []  # it does not listen yet

            wait_until(lambda: bool(listed_models()))
            models = listed_models()
        finally:
            process.terminate()
    assert [model["id"] for model in models] == [NAME]
    assert [model.record.format for model in cache.models()] == ["onnx"]


def test_a_converted_folder_is_used_as_it_is(
    run: Run, tiny_folders: dict[str, Path], cache: ModelCache, light_command: CommandServer
) -> None:
    for folder in tiny_folders.values():
        assert cached_model(folder) == folder
        result = run("run", folder, "hello", *SHORT, by=light_command)
        assert succeeded(result)
        assert not {"torch", "transformers", "huggingface_hub", "safetensors"} & result.modules
    assert not cache.folder.exists()


def test_what_decides_the_bytes_decides_the_place(cache: ModelCache, source: Path, tmp_path: Path) -> None:
    model = tmp_path / "model"
    shutil.copytree(source, model)  # with its times
    said: list[str] = []
    first = cached_model(model, on_message=said.append)
    assert cached_model(str(model)) == first
    assert len([line for line in said if "not converted yet" in line]) == 1
    moved = model.rename(make(tmp_path / "later") / "model")
    assert cached_model(moved) == first
    assert cached_model(moved, format="onnx") != first
    assert cached_model(moved, bits=8) != first
    assert cached_model(moved, bits=4) == first
    status = (moved / "model.safetensors").stat()
    data = bytearray((moved / "model.safetensors").read_bytes())
    data[-1] ^= 1
    (moved / "model.safetensors").write_bytes(data)
    os.utime(moved / "model.safetensors", ns=(status.st_atime_ns, status.st_mtime_ns))  # only the contents tell
    assert cached_model(moved) != first
    assert len(cache.models()) == 4


def test_a_large_file_is_told_apart_by_time_and_by_samples(tmp_path: Path) -> None:
    from ovround.conversion.cache.source import local_source

    path = tmp_path / "model.safetensors"
    path.write_bytes(bytes(8 << 20))
    status, identities = path.stat(), [local_source(tmp_path).identity]
    path.write_bytes(b"\1" * (8 << 20))
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    identities.append(local_source(tmp_path).identity)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns + 1))
    identities.append(local_source(tmp_path).identity)
    (tmp_path / "README.md").write_text("no part of the model")
    assert local_source(tmp_path).identity == identities[-1]
    assert len(set(identities)) == 3


def test_a_quantised_source_keeps_its_integers(run: Run, source: Path, tmp_path: Path) -> None:
    packed = tmp_path / "packed"
    succeeded(
        run("convert", source, packed, "--format", "gptq", "--bits", "8", "--group-size", "64", "--recipe", "rtn")
    )
    result = run("run", packed, "hello", *SHORT)
    assert succeeded(result)
    assert (
        f"`{packed}` is not converted yet: its weights are kept as they are quantised, for openvino, once"
        in result.stderr
    )
    assert "hint: " not in result.stderr
    assert "gptq, kept" in succeeded(run("cache", "list"))


def test_the_cache_follows_its_variables(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("OVROUND_CACHE", str(tmp_path / "mine"))
    assert cache_folder() == tmp_path / "mine"
    monkeypatch.delenv("OVROUND_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache_folder() == tmp_path / "ovround"
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")  # which the specification ignores
    monkeypatch.setattr(Path, "home", lambda: tmp_path / "home")
    assert cache_folder() == tmp_path / "home" / ".cache" / "ovround"


# What is wrong


def test_wrong_arguments(run: Run, command: CommandServer, tiny_folders: dict[str, Path], source: Path) -> None:
    converted = tiny_folders["openvino"]
    for words, message, hint in (
        (
            (converted, "--bits", "4"), f"bits is 4, yet `{converted}` is converted already",
            "leave --bits out, or give the model that it was converted from",
        ),
        (
            (converted, "--format", "onnx"), f"format is onnx, yet `{converted}` is converted already",
            "leave --format out, or give the model that it was converted from",
        ),
        ((source, "--bits", "5"), "bits is `5`; allowed: 2, 3, 4, 8, 16", "--bits 4"),
        ((source, "--format", "onx"), "format is `onx`; allowed: openvino, onnx", "did you mean `onnx`?"),
        (
            (source, "--raw", "--system", "Be brief."),
            "raw and system-prompt are both given; a text as it stands has no messages", None,
        ),
    ):  # fmt: skip
        result = run("run", words[0], "hello", *words[1:], by=command)
        assert result.stderr.splitlines() == [f"error: {message}", *([f"hint: {hint}"] if hint else [])]
        assert (result.status, result.stdout) == (2, "")
        assert "torch" not in result.modules


def test_a_hub_that_does_not_give_the_model(run: Run, hub: HubServer, command: CommandServer) -> None:
    hub.repositories |= {"ovround-tests/gated": hub.repositories[NAME]}
    hub.refused["ovround-tests/gated"] = (403, "GatedRepo")
    start = "error: `{}` is no local folder, and the hub did not give it: "
    for name, reason, hint in (
        ("ovround-tests/none", "there is no model of that name, or it is private", "check the spelling; "),
        ("ovround-tests/gated", "its owner must grant access first", "ask for it at https://huggingface.co/ovround-tests/gated; "),
        (f"{NAME}@nothing", "it has no revision `nothing`", f"leave it out: `{NAME}`"),
    ):  # fmt: skip
        result = run("run", name, "hello", by=command)
        first, second = result.stderr.splitlines()
        assert first == start.format(name) + reason
        assert second.startswith(f"hint: {hint}")
        assert (result.status, listed(run)) == (1, [])
    down = {"HF_ENDPOINT": "http://127.0.0.1:9"}
    first, second = run("run", NAME, "hello", by=command, environment=down).stderr.splitlines()
    assert first == start.format(NAME) + "it cannot be reached, and nothing of it was downloaded before"
    assert second.startswith("hint: check the network")


def test_a_repository_of_gguf_files_says_how_one_is_named(
    run: Run, hub: HubServer, command: CommandServer, tmp_path: Path
) -> None:
    files = make(tmp_path / "gguf")
    for name in ("tiny-Q4_0.gguf", "tiny-Q8_0.gguf"):
        (files / name).write_bytes(b"GGUF")
    hub.repositories |= {"ovround-tests/gguf": files}
    message, hint = run("run", "ovround-tests/gguf", "hello", by=command).stderr.splitlines()[-2:]
    assert message == "error: `ovround-tests/gguf` has GGUF files alone: Q4_0, Q8_0"
    assert hint == "hint: name one: ovround-tests/gguf:Q4_0"


def test_a_disk_without_room_for_the_download(run: Run, hub: HubServer, command: CommandServer) -> None:
    hub.stated_sizes["model.safetensors"] = 1 << 50
    try:
        result = run("chat", NAME, "--bits", "4", by=command)
    finally:
        hub.stated_sizes.clear()
    message, hint = result.stderr.splitlines()
    assert re.fullmatch(rf"error: `{NAME}` is a download of 1125899\d+ MB; `.*` has \d+ MB free", message)
    assert hint == "hint: free some space, or set HF_HUB_CACHE to a folder on another disk"
    assert not any(line.startswith("GET") and "model.safetensors" in line for line in hub.requests)


def test_a_disk_without_room_for_the_conversion(
    cache: ModelCache, source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    free = shutil.disk_usage(source)._replace(free=1_000_000) if hasattr(shutil, "disk_usage") else None
    monkeypatch.setattr(shutil, "disk_usage", lambda path: free)
    with pytest.raises(ovround.OvroundError, match=r"has 1 MB free; about \d+ MB are needed") as caught:
        cached_model(source)
    assert caught.value.hint == (
        "`ovround cache prune` and `ovround cache remove` free space; OVROUND_CACHE names another folder"
    )
    assert cache.models() == []


def test_a_model_larger_than_memory(cache: ModelCache, source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pages = os.sysconf
    monkeypatch.setattr(os, "sysconf", lambda name: 100 if name == "SC_PHYS_PAGES" else pages(name))
    with pytest.raises(EngineError, match=r"in 4 bits takes about 0\.\d GB; 0\.0 GB of memory may be used here"):
        cached_model(source)
    assert cache.models() == []


# Two processes, and processes that are killed


def test_of_two_processes_one_converts_and_the_other_waits(run: Run, cache: ModelCache, source: Path) -> None:
    results: list[Result] = []
    with (
        CommandServer(cache.folder.parent.parent, ["ovround.conversion.convert"]) as other,
        CommandServer(make(cache.folder.parent.parent / "b"), ["ovround.conversion.convert"]) as another,
    ):
        threads = [
            threading.Thread(target=lambda by=by: results.append(run("run", source, "hello", *SHORT, by=by)))
            for by in (other, another)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert succeeded(results[0]) == succeeded(results[1])
    converted = ["not converted yet" in result.stderr for result in results]
    waited = [bool(re.search(rf"waiting for process \d+, which converts `{source}`", r.stderr)) for r in results]
    assert sorted(converted) == [False, True]
    assert waited == [not one for one in converted]
    assert len(listed(run)) == 1
    assert [path.name for path in cache.folder.iterdir() if path.name.startswith(".")] == []


def test_ctrl_c_ends_the_wait(run: Run, cache: ModelCache, source: Path) -> None:
    place = cached_model(source)
    cache.remove(cache.models()[0])
    lock = cache.folder / f".{place.name}.lock"
    handle = lock_file(lock)
    try:
        result = run("run", source, "hello", *SHORT, "--bits", "4", moment=Moment(signal.SIGINT, 5, "lock_file"))
    finally:
        unlock_file(handle, lock)
    assert (result.status, result.stdout) == (130, "")
    assert result.stderr.splitlines() == [f"waiting for process {os.getpid()}, which converts `{source}`", "stopped"]


@pytest.mark.parametrize(
    "function",
    [
        *(pytest.param(name, marks=pytest.mark.slow) for name in ("prepare", "finish", "write_manifest")),
        "verify", "_replace", "add",
    ],
)  # fmt: skip
def test_a_killed_conversion_leaves_nothing_that_is_used(
    run: Run, cache: ModelCache, source: Path, function: str
) -> None:
    killed = run("run", source, "hello", *SHORT, moment=Moment(signal.SIGKILL, 1, function))
    assert killed.status == -signal.SIGKILL
    assert listed(run) == []
    again = run("run", source, "hello", *SHORT)
    assert succeeded(again)
    assert "not converted yet" in again.stderr
    (entry,) = listed(run)
    assert sorted(path.name for path in cache.folder.iterdir()) == [
        Path(entry["folder"]).name, f"{Path(entry['folder']).name}.json"
    ]  # fmt: skip
    assert succeeded(run("cache", "list", "--check"))


def test_prune_removes_what_a_killed_conversion_left_and_not_what_is_being_written(
    run: Run, cache: ModelCache, source: Path
) -> None:
    run("run", source, "hello", *SHORT, moment=Moment(signal.SIGKILL, 1, "verify"))
    assert [path for path in cache.folder.iterdir() if path.is_dir()]
    writing = cache.folder / "other-0123456789ab"
    writing.mkdir()
    lock = cache.folder / f".{writing.name}.lock"
    handle = lock_file(lock)
    try:
        assert re.fullmatch(r"removed what killed conversions left: \d+\.\d+ MB\n", succeeded(run("cache", "prune")))
        assert [path for path in cache.folder.iterdir() if path.is_dir()] == [writing]
    finally:
        unlock_file(handle, lock)
    assert succeeded(run("cache", "prune")) == "nothing to remove\n"
    assert not writing.exists()


# Damage


@pytest.mark.parametrize(
    ("format_name", "damage"),
    [("openvino", "gone"), ("onnx", "shorter"), ("openvino", "changed"), ("onnx", "changed"), ("openvino", "manifest")],
)
def test_a_damaged_conversion_is_made_again_and_that_is_said(
    cache: ModelCache, run: Run, source: Path, format_name: str, damage: str
) -> None:
    options = (source, "hello", *SHORT, "--format", format_name)
    answer = succeeded(run("run", *options))
    weights = next(path for path in cache.folder.rglob("*") if path.name in ("openvino_model.bin", "model.onnx.data"))
    if damage == "gone":
        weights.unlink()
    elif damage == "manifest":
        (weights.parent / "ovround.json").write_text("{}")
    else:
        data = weights.read_bytes()
        middle = len(data) // 2
        changed = data[:middle] + bytes([data[middle] ^ 1]) + data[middle + 1 :]
        weights.write_bytes(data[:-1] if damage == "shorter" else changed)
    checked = run("cache", "list", "--check")
    assert checked.status == 1
    assert checked.stderr.startswith("damaged: ")
    again = run("run", *options)
    assert succeeded(again) == answer
    assert "warning: the conversion in the cache is damaged, and is made again: `" in again.stderr
    assert succeeded(run("cache", "list", "--check"))
    assert run("run", *options).stderr.count("\n") == 1


def test_a_record_that_cannot_be_read_counts_as_none(cache: ModelCache, run: Run, source: Path) -> None:
    folder = cached_model(source)
    for content in ("", "[]", '{"models": 3}', "{" * 100_000):
        folder.with_name(f"{folder.name}.json").write_text(content)
        assert listed(run) == []
    assert cached_model(source) == folder
    assert len(listed(run)) == 1


# List, remove, prune


def test_list_remove_and_prune(cache: ModelCache, run: Run, source: Path) -> None:
    assert succeeded(run("cache", "list")) == f"no models in `{cache.folder}`\n"
    folders = [cached_model(source, bits=bits) for bits in (2, 4, 8)]
    lines = succeeded(run("cache", "list")).splitlines()
    assert lines[0].split() == ["model", "engine", "weights", "MB", "converted", "last", "used", "key"]
    assert [f"{bits} bits, rounded" in line for bits, line in zip((8, 4, 2), lines[2:], strict=False)] == [True] * 3
    assert re.fullmatch(rf"3 in `{cache.folder}`, \d+\.\d+ MB", lines[-1])
    two, four, eight = (next(model for model in cache.models() if model.folder == folder) for folder in folders)
    refused = run("cache", "remove", "nothing")
    assert refused.stderr.splitlines() == [
        f"error: `nothing` is no model in the cache `{cache.folder}`", "hint: `ovround cache list` names what is there"
    ]  # fmt: skip
    assert refused.status == 2
    assert succeeded(run("cache", "remove", two.key)).startswith(f"removed {two.key}: {source}, ")
    assert not two.folder.exists()
    long_ago = time.time() - 10 * 86_400
    os.utime(four.folder.with_name(f"{four.folder.name}.json"), (long_ago, long_ago))
    assert succeeded(run("cache", "prune", "--older-than", "11")) == "nothing to remove\n"
    assert succeeded(run("cache", "prune", "--older-than", "9")).startswith(f"removed {four.key}: ")
    assert succeeded(run("cache", "prune", "--larger-than", "1GB")) == "nothing to remove\n"
    assert succeeded(run("cache", "prune", "--larger-than", "1kB")).startswith(f"removed {eight.key}: ")
    assert listed(run) == []
    for words, message in (
        (("--older-than", "-1"), "older-than is -1.0; a number of days of 0 or more is needed"),
        (("--larger-than", "much"), "larger-than is `much`, which is no size"),
    ):
        refused = run("cache", "prune", *words)
        assert (refused.status, refused.stderr.splitlines()[0]) == (2, f"error: {message}")


def test_prune_keeps_the_last_used_and_removes_other_versions(cache: ModelCache, source: Path) -> None:
    for bits in (2, 4, 8):
        cached_model(source, bits=bits)
    used = cached_model(source, bits=4)
    largest = max(model.record.size_bytes for model in cache.models())
    assert cache.models()[0].folder == used
    going = cache.to_prune(None, largest + 1)
    assert used not in [model.folder for model in going]
    assert len(going) >= 1
    (model,) = (model for model in cache.models() if model.folder == used)
    cache.add(used, dataclasses.replace(model.record, version="0.0.1"))
    assert [model.folder for model in cache.to_prune(None, None)] == [used]


def make(folder: Path) -> Path:
    folder.mkdir()
    return folder
