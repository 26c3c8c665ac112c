"""`ovround check` of a configuration alone: it answers what the exporters and engines would, without weights and without torch."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from checkpoint_writer import tiny_config, write_checkpoint
from command_server import CommandServer, succeeded
from gguf_model import write_model
from hub_server import HubServer
from toy_family import toy_recurrent, verb_openvino

from ovround import models
from ovround.conversion.fit.config import StatedConfig
from ovround.conversion.fit.support import model_support
from ovround.errors import ArchitectureError, CheckpointError
from ovround.exporters.onnx.package import OnnxExporter
from ovround.models import families, from_config, smallest_configs, verbs
from ovround.models.calls import check_verbs
from ovround.models.decoder import Decoder

NAME = "ovround-tests/config"
CASES = [
    *((family, config) for family in families() for config in smallest_configs(family)),
    ("llama", tiny_config(head_dim=12)),
]  # fmt: skip


def runs(config: dict[str, Any]) -> dict[str, bool]:
    return {
        engine.engine.split(",")[0].split(" ")[0]: engine.runs for engine in model_support(StatedConfig(config)).engines
    }


def test_the_answer_is_that_of_the_exporters(tmp_path: Path) -> None:
    for number, (family, config) in enumerate(CASES):
        decoder, said, folder = from_config(config), runs(config), tmp_path / str(number)
        folder.mkdir()
        assert said["OpenVINO"] == refuses_nothing(partial(check_verbs, decoder, "openvino")), family
        assert said["ONNX"] == refuses_nothing(partial(build_onnx, folder, decoder)), family
        assert said["Gaudi"] == refuses_nothing(partial(check_verbs, decoder, "hpu")), family
        assert model_support(StatedConfig(config)).family == family


def build_onnx(folder: Path, decoder: Decoder) -> None:
    OnnxExporter(folder, decoder, folder).close()


def refuses_nothing(build: Callable[[], object]) -> bool:
    try:
        build()
    except ArchitectureError:
        return False
    return True


def test_a_verb_that_an_engine_lacks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(models.registered, "toy_recurrent", toy_recurrent.from_config)
    monkeypatch.setitem(verbs.registered, ("openvino", "gated_recurrence"), verb_openvino.compute)
    config = toy_recurrent.smallest_configs()[0]
    assert runs(config) == {"OpenVINO": True, "ONNX": False, "Gaudi": False, "llama.cpp": False}
    why = {engine.engine.split(" ")[0]: engine.why for engine in model_support(StatedConfig(config)).engines}
    assert why["ONNX"] == "the model's `gated_recurrence` is not built for onnx"
    assert why["Gaudi"] == "the model's `gated_recurrence` is not built for hpu"


def test_a_model_type_that_is_anothers_is_known_everywhere(command: CommandServer, tmp_path: Path) -> None:
    for alias, family in models._ALIASES.items():
        config = {**smallest_configs(family)[0], "model_type": alias}
        own, named = model_support(StatedConfig({**config, "model_type": family})), model_support(StatedConfig(config))
        assert (named.model_type, named.family, named.engines) == (alias, family, own.engines)
        folder = write_checkpoint(tmp_path / alias, config)
        assert json.loads(succeeded(command("inspect", folder, "--json")))["supported"]
        assert f"model_type {alias}, can be converted" in succeeded(command("inspect", folder))
        assert f": {alias}, computed as {family}; " in succeeded(command("check", folder))


def test_what_is_refused_names_its_key() -> None:
    for config, message in (
        ({"model_type": "qwen_2"}, r"`qwen_2` is not a family that ovround knows; its name is near `qwen2`"),
        (tiny_config(hidden_act="mish"), "hidden_act `mish` is not supported"),
        (tiny_config(num_attention_heads="four"), "`num_attention_heads` is 'four'; a whole number is needed"),
    ):
        with pytest.raises(ArchitectureError, match=message):
            model_support(StatedConfig(config))
    with pytest.raises(CheckpointError, match=r"`config\.json` is quantised by `hqq`"):
        model_support(StatedConfig(tiny_config(quantization_config={"quant_method": "hqq"})))


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[HubServer]:
    folder = write_checkpoint(tmp_path / "config", tiny_config())
    adapter = tmp_path / "adapter"
    adapter.mkdir()
    (adapter / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": NAME}))
    gguf = tmp_path / "gguf"
    gguf.mkdir()
    write_model(gguf, tiny_config())[0].rename(gguf / "m-F32.gguf")
    for part in ("source", "out"):
        shutil.rmtree(gguf / part)
    with HubServer({NAME: folder, "ovround-tests/adapter": adapter, "ovround-tests/gguf": gguf}) as server:
        yield server


def test_of_a_hub_name_the_configuration_alone_is_fetched(
    hub: HubServer, command: CommandServer, tmp_path: Path
) -> None:
    environment = hub.environment(tmp_path / "home")
    answers = []
    for model in (NAME, "ovround-tests/adapter", tmp_path / "config" / "config.json", tmp_path / "config"):
        hub.requests.clear()
        result = command("check", model, environment=environment)
        answers.append(succeeded(result).partition(": ")[2].removesuffix("nothing found\n"))
        assert not {"torch", "transformers", "openvino", "onnxruntime", "onnx"} & result.modules
        assert all("config.json" in line for line in hub.requests)
    assert len(hub.requests) == 0
    assert len(set(answers)) == 1, answers
    assert answers[0].startswith("llama; `ovround convert` takes it\n0 M parameters in 2 layers, in float; context ")
    gguf = command("check", "ovround-tests/gguf:F32", environment=environment)
    assert succeeded(gguf).endswith("yes  llama.cpp (--format gguf)\n")
    assert not list((tmp_path / "home").rglob("blobs/*"))
    alone = command("check", "ovround-tests/gguf", environment=environment)  # the only one needs no tag
    assert succeeded(alone).partition(": ")[2] == succeeded(gguf).partition(": ")[2]


def test_an_unknown_family_with_its_weights_is_still_looked_through(command: CommandServer, tmp_path: Path) -> None:
    path = write_model(tmp_path, tiny_config())[0]
    path.write_bytes(path.read_bytes().replace(b"llama", b"glama"))
    first, *rest = succeeded(command("check", path)).splitlines()
    assert first.startswith(f"{path}: `ovround convert` does not take it: ")
    assert rest == ["nothing found"]
