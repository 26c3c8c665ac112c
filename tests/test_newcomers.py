"""What newcomers do wrong: a message of at most four lines that names the value, and a hint that works as it stands.

And what they write otherwise than we do, yet cannot mean anything else: that works at once.
"""

from __future__ import annotations

import json
import re
import shlex
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import gguf
import pytest
from checkpoint_writer import tiny_config, write_checkpoint
from command_server import CommandServer, Result, succeeded
from gguf_model import write_model
from hub_server import HubServer
from measured_machine import keep_speed

from ovround.errors import OvroundError

TOKEN = "hf_member"  # noqa: S105  nobody's
SHORT = ("--max-new-tokens", "2")
WIDTHS = {
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 32,
}
Call = tuple[Sequence[object], dict[str, str]]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where a newcomer works: a model, and things that are none."""
    folder = tmp_path_factory.mktemp("work")
    config = tiny_config(**WIDTHS)
    model = write_checkpoint(folder / "my-model", config)
    base = shutil.copytree(model, folder / "base-model")
    settings = json.loads((base / "tokenizer_config.json").read_text())
    settings.pop("chat_template", None)
    (base / "tokenizer_config.json").write_text(json.dumps(settings))
    (folder / "parent").mkdir()
    shutil.copytree(model, folder / "parent" / "inner")
    (folder / "empty").mkdir()
    shutil.copytree(model, folder / "unfinished", ignore=shutil.ignore_patterns("*.safetensors"))
    embedder = shutil.copytree(model, folder / "embedder")
    (embedder / "config.json").write_text(
        json.dumps({"model_type": "bert", "architectures": ["BertModel"], "hidden_size": 64})
    )
    written = tmp_path_factory.mktemp("gguf")
    whole, _ = write_model(written, config)
    shutil.copy(whole, folder / "whole.gguf")
    (folder / "cut.gguf").write_bytes(whole.read_bytes()[: whole.stat().st_size // 2])
    writer = gguf.GGUFWriter(folder / "rwkv.gguf", "rwkv7")
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.close()
    for name in ("paper.pdf", "model.zip", "model.onnx", "model.pt"):
        (folder / name).write_bytes(b"%PDF-1.7 PK")
    (folder / "taken").mkdir()
    (folder / "taken" / "thesis.txt").write_text("mine")
    store = folder / "ollama"
    manifest = store / "manifests" / "registry.ollama.ai" / "library" / "tiny" / "1b"
    manifest.parent.mkdir(parents=True)
    digest = "ab" * 32
    layers = [{"mediaType": "application/vnd.ollama.image.model", "digest": f"sha256:{digest}"}]
    manifest.write_text(json.dumps({"layers": layers}))
    (store / "blobs").mkdir()
    shutil.copy(whole, store / "blobs" / f"sha256-{digest}")
    return folder


@pytest.fixture(scope="module")
def hub(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[HubServer]:
    files = tmp_path_factory.mktemp("files")
    for name in ("tiny-Q8_0.gguf", "tiny-Q4_0.gguf"):
        shutil.copy(folder / "whole.gguf", files / name)
    one = tmp_path_factory.mktemp("one")
    shutil.copy(folder / "whole.gguf", one / "tiny.gguf")
    model = folder / "my-model"
    repositories = {
        "org/tiny": model,
        "org/gated": model,
        "org/private": model,
        "org/tiny-GGUF": files,
        "org/one-GGUF": one,
    }
    with HubServer(repositories) as server:
        server.gated.add("org/gated")
        server.private.add("org/private")
        server.members.add(TOKEN)
        yield server


@pytest.fixture(scope="module")
def run(
    loaded_command: CommandServer, hub: HubServer, folder: Path, tmp_path_factory: pytest.TempPathFactory
) -> Callable[..., Result]:
    """Run a command in the folder, with one cache for all of this file."""
    home = tmp_path_factory.mktemp("home")
    environment = {"OVROUND_CACHE": str(home / "cache"), **hub.environment(home / "hub"), "OLLAMA_MODELS": str(home)}
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OVROUND_CACHE", environment["OVROUND_CACHE"])
        keep_speed()

    def command(words: Sequence[object], **more: str) -> Result:
        return loaded_command(*words, cwd=folder, environment=environment | more)

    return command


# What is wrong


@dataclass(frozen=True, slots=True)
class Mistake:
    """`words` of a command, what is said of them, and the way out: the next words, from the first ones and the hint."""

    words: str
    error: str
    hint: str = ""
    way_out: Callable[[list[str], str, Path], Call] | None = None


def did_you_mean(words: list[str], hint: str, folder: Path) -> Call:
    """With the model that the hint names in backticks."""
    (named,) = re.findall(r"did you mean `(.+)`\?", hint)
    return [words[0], named, *words[2:]], {}


def named_one(words: list[str], hint: str, folder: Path) -> Call:
    return [words[0], hint.rpartition("name one: ")[2], *words[2:]], {}


def with_token(words: list[str], hint: str, folder: Path) -> Call:
    assert "HF_TOKEN" in hint
    return words, {"HF_TOKEN": TOKEN}


def with_flag(words: list[str], hint: str, folder: Path) -> Call:
    """With the flag at the begin of the hint in place of the last one."""
    return [*words[:-2], *hint.partition(";")[0].split()], {}


def first_command(words: list[str], hint: str, folder: Path) -> Call:
    """The command that the hint begins with."""
    return [*shlex.split(hint.partition(", or ")[0])[1:], *SHORT], {}


def hub_model(words: list[str], hint: str, folder: Path) -> Call:
    """With a hub name; the local hub has not the one that is named as an example."""
    return ["pull", "org/tiny"], {}


def other_folder(words: list[str], hint: str, folder: Path) -> Call:
    assert "choose another output folder" in hint
    return [*words[:2], "new", *words[3:]], {}


def weights_copied(words: list[str], hint: str, folder: Path) -> Call:
    shutil.copy(folder / "my-model" / "model.safetensors", folder / "unfinished")
    return words, {}


def downloaded_again(words: list[str], hint: str, folder: Path) -> Call:
    shutil.copy(folder / "whole.gguf", folder / "cut.gguf")
    return words, {}


def from_ollama(words: list[str], hint: str, folder: Path) -> Call:
    assert hint.startswith("`ollama pull tiny:1b` puts it there")
    return words, {"OLLAMA_MODELS": str(folder / "ollama")}


NOT_GIVEN = "`{}` is no local folder, and the hub did not give it: "
GIVE = "give a model folder, a GGUF file, a hub name such as org/model, or `demo`"
LOG_IN = "`hf auth login`, or HF_TOKEN, gives the hub your token"
MISTAKES = {
    "wrong name": Mistake(
        "pull org/tinny", NOT_GIVEN.format("org/tinny") + "there is no model of that name, or it is private",
        f"check the spelling; of a private one {LOG_IN}", hub_model,
    ),
    "gated": Mistake(
        "pull org/gated", NOT_GIVEN.format("org/gated") + "its owner must grant access first",
        f"ask for it at https://huggingface.co/org/gated; {LOG_IN}", with_token,
    ),
    "private": Mistake(
        "pull org/private", NOT_GIVEN.format("org/private") + "there is no model of that name, or it is private",
        f"check the spelling; of a private one {LOG_IN}", with_token,
    ),
    "only GGUF files": Mistake(
        "pull org/tiny-GGUF", "`org/tiny-GGUF` has GGUF files alone: Q4_0, Q8_0", "name one: org/tiny-GGUF:Q4_0", named_one
    ),
    "no weights": Mistake(
        "run unfinished hello --bits 4",
        "`unfinished` has neither model.safetensors nor model.safetensors.index.json nor pytorch_model.bin",
        "the weights are still to be copied or downloaded; a hub name, such as org/model, is downloaded whole", weights_copied,
    ),
    "empty folder": Mistake(
        "chat empty", "`empty` is empty",
        "a model's folder has config.json and weights; a name on the hub, such as HuggingFaceTB/SmolLM2-135M-Instruct, is downloaded",
        hub_model,
    ),
    "folder above": Mistake(
        "run parent hello --bits 4", "`parent` has no config.json, 1 folder(s) within it have one", "name one: parent/inner", named_one
    ),
    "unknown GGUF": Mistake(
        "run rwkv.gguf hello", "the file is of llama.cpp's architecture `rwkv7`, which no family of ovround computes", "known: .*"
    ),
    "cut GGUF": Mistake("run cut.gguf hello", "`cut.gguf` .*", "download it again.*", downloaded_again),
    "PDF": Mistake("run paper.pdf hello", "`paper.pdf` is no file of a model", GIVE),
    "archive": Mistake(
        "chat model.zip", "`model.zip` is no file of a model", "unpack it, and give the folder with the model's config.json"
    ),
    "ONNX": Mistake(
        "chat model.onnx", "`model.onnx` is no file of a model",
        "it is converted for another program: give the folder or hub name of the model that it was made from",
    ),
    "weights alone": Mistake(
        "convert model.pt out", "`model.pt` is no file of a model",
        "weights alone do not say what they are: give the folder with its config.json, or the model's hub name",
    ),
    "typo": Mistake("run my-modle hello", "`my-modle` is no folder and no hub name", "did you mean `my-model`?", did_you_mean),
    "typo in a path": Mistake("run ./my-modle hello", "`./my-modle` is not there", "did you mean `./my-model`?", did_you_mean),
    "typo that is a hub name": Mistake(
        "run parent/iner hello", NOT_GIVEN.format("parent/iner") + "there is no model of that name, or it is private",
        "did you mean `parent/inner`?", did_you_mean,
    ),
    "no prompt": Mistake(
        "run my-model", "there is no prompt",
        "ovround run my-model 'Why is the sky blue?', or ovround chat my-model, which asks for messages", first_command,
    ),
    "5 bits": Mistake("run my-model hello --bits 5", "bits is `5`; allowed: 2, 3, 4, 8, 16", "--bits 4", with_flag),
    "a GGUF type as bits": Mistake(
        "run my-model hello --bits Q4_K_M", "bits is `Q4_K_M`, a type of GGUF files; allowed: 2, 3, 4, 8, 16",
        "--bits 4; a GGUF file of a hub repository is named MODEL:Q4_K_M", with_flag,
    ),
    "embedding model": Mistake(
        "chat embedder", "model_type `bert` with architectures `BertModel` writes no text: it computes embeddings or classes",
        "the architectures of one that writes text end in ForCausalLM, as those of HuggingFaceTB/SmolLM2-135M-Instruct",
    ),
    "taken folder": Mistake(
        "convert my-model taken --recipe rtn", "`taken` holds `thesis.txt`, which ovround did not write",
        "choose another output folder, or remove it", other_folder,
    ),
    "ollama's name": Mistake(
        "run tiny:1b hello", "`tiny:1b` is a name of ollama's, which is not in its store here",
        "`ollama pull tiny:1b` puts it there; or give a hub name, which has an organisation: org/model", from_ollama,
    ),
    "data set": Mistake(
        "pull https://huggingface.co/datasets/org/texts",
        "`https://huggingface.co/datasets/org/texts` is not the address of a model's page on the hub",
        "such a page is https://huggingface.co/org/model; of anything else, download it and give the file or folder",
    ),
    "no GPU": Mistake(
        "run my-model hello --bits 4 --device GPU.7", "device `GPU.7` is not there", "available for OpenVINO: CPU, .*",
    ),
}  # fmt: skip


SLOW = ("cut GGUF", "ollama's name")  # which convert a GGUF file
NAMES = [pytest.param(name, marks=pytest.mark.slow) if name in SLOW else name for name in MISTAKES]


@pytest.mark.parametrize("name", NAMES)
def test_a_mistake_and_the_way_out(name: str, run: Callable[..., Result], folder: Path) -> None:
    mistake = MISTAKES[name]
    words = shlex.split(mistake.words)
    result = run(words)
    assert result.status in (1, 2)
    assert result.stdout == ""
    errors = result.stderr[result.stderr.index("error: ") :].splitlines()
    assert matches(mistake.error, errors[0].removeprefix("error: ")), result.stderr
    hint = errors[1].removeprefix("hint: ") if len(errors) > 1 else ""
    assert matches(mistake.hint, hint), result.stderr
    assert len(errors) == 1 + bool(hint)
    assert len(result.stderr) <= 4 * 135
    if mistake.way_out is not None:
        following, environment = mistake.way_out(words, hint, folder)
        succeeded(
            run([*following, *(SHORT if following[0] == "run" and SHORT[0] not in following else ())], **environment)
        )


def matches(expected: str, said: str) -> bool:
    """Whether it is said; `.*` at an end stands for anything."""
    return bool(re.fullmatch(re.escape(expected).replace(r"\.\*", ".*"), said))


def test_a_base_model_in_a_chat_says_what_it_does(run: Callable[..., Result], folder: Path) -> None:
    result = run(["chat", "base-model", "--bits", "4", *SHORT, "--quiet"])
    assert (succeeded(result), result.stderr) == ("", "")
    said = run(["chat", "base-model", "--bits", "4", *SHORT]).stderr
    assert said.startswith("this model has no chat template, as a base model: the conversation is written as a text")
    assert len(said.splitlines()) == 2


def test_a_full_disk_and_a_cache_on_another_one(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from ovround import cached_model

    real, full, roomy = shutil.disk_usage, tmp_path / "full", tmp_path / "roomy"
    full.mkdir()

    def usage(path: Path) -> object:
        found = real(path)
        return found._replace(free=1_000) if Path(path).is_relative_to(full) else found

    monkeypatch.setattr(shutil, "disk_usage", usage)
    monkeypatch.setenv("OVROUND_CACHE", str(full))
    with pytest.raises(OvroundError, match="has 0 MB free; about") as caught:
        cached_model(folder / "my-model", bits=4)
    assert len(str(caught.value).splitlines()) == 1
    assert str(caught.value.hint).endswith("OVROUND_CACHE names another folder")
    monkeypatch.setenv("OVROUND_CACHE", str(roomy))
    assert cached_model(folder / "my-model", bits=4).is_relative_to(roomy)


# What is meant


def test_one_conversion_for_all_names_of_a_model(run: Callable[..., Result], hub: HubServer) -> None:
    names = ("org/tiny", "https://huggingface.co/org/tiny/tree/main", f"{hub.url}/org/tiny", "hf.co/org/tiny")
    results = [run(["run", name, "hello", *SHORT, "--bits", "4"]) for name in names]
    assert len({succeeded(result) for result in results}) == 1
    assert ["not converted yet" in result.stderr for result in results[1:]] == [False] * 3
    listed = json.loads(succeeded(run(["cache", "list", "--json"])))["models"]
    assert [entry["models"] for entry in listed if "org/tiny" in entry["models"]] == [["org/tiny"]]


def test_a_file_of_the_hub_by_its_address(run: Callable[..., Result]) -> None:
    address = "https://huggingface.co/org/tiny-GGUF/blob/main/tiny-Q8_0.gguf"
    assert Path(succeeded(run(["pull", address])).partition(": ")[0]).name == "tiny-Q8_0.gguf"


def test_the_only_gguf_file_needs_no_name(run: Callable[..., Result]) -> None:
    assert Path(succeeded(run(["pull", "org/one-GGUF"])).partition(": ")[0]).name == "tiny.gguf"
    for command in ("check", "fit", "inspect"):
        assert "org/one-GGUF: " in succeeded(run([command, "org/one-GGUF"]))


def test_a_prompt_from_a_pipe_needs_no_argument(loaded_command: CommandServer, demo_folders: dict[str, Path]) -> None:
    options = (*SHORT, "--exact", "--quiet")
    given = loaded_command("run", demo_folders["onnx"], "What is a list?", *options)
    piped = loaded_command("run", demo_folders["onnx"], *options, stdin="What is a list?")
    assert succeeded(piped) == succeeded(given)
    assert piped.stderr == ""
