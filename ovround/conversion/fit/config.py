"""The config.json of whatever names a model, without its weights: of a hub name one file is fetched."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ovround.checkpoint.files.json_object import read_json
from ovround.checkpoint.files.missing_config import CONFIG, missing_config
from ovround.checkpoint.gguf.opening import find_gguf, open_gguf
from ovround.checkpoint.hub import list_repository
from ovround.checkpoint.hub.choice import choose_files
from ovround.checkpoint.hub.name import HubName
from ovround.checkpoint.hub.refusal import unreachable
from ovround.checkpoint.hub.remote import read_headers, read_remote
from ovround.checkpoint.locate import hub_name, local_path
from ovround.checkpoint.lora.adapter import CONFIG as ADAPTER_CONFIG
from ovround.errors import CheckpointError

_BASE = "base_model_name_or_path"
_LONGEST_CHAIN = 8


@dataclass(frozen=True, slots=True)
class StatedConfig:
    """A config.json as it stands, and what a GGUF file is made of where it comes from one."""

    config: dict[str, Any]
    gguf: str = ""


def read_config(model: str, depth: int = 0) -> StatedConfig:
    """The configuration of a folder, config.json file, GGUF file or hub name; of an adapter, its base's.

    Raises CheckpointError where there is none.
    """
    if depth > _LONGEST_CHAIN:
        raise CheckpointError(f"`{model}` is an adapter of an adapter, {_LONGEST_CHAIN} times")
    path = Path(model).expanduser()
    if path.suffix == ".json" and path.is_file():
        return StatedConfig(read_json(path))
    found = local_path(model)
    if found is None:
        return _of_hub(hub_name(model), depth)
    if found.is_file():
        return _of_gguf(found)
    if (found / CONFIG).is_file():
        return StatedConfig(read_json(found / CONFIG))
    if (found / ADAPTER_CONFIG).is_file():
        return _of_base(model, read_json(found / ADAPTER_CONFIG), depth)
    gguf = find_gguf(found)
    if gguf is None:
        raise missing_config(found)
    return _of_gguf(gguf)


def _of_hub(name: HubName, depth: int) -> StatedConfig:
    if name.tag is None:
        content = read_remote(name, CONFIG)
        if content is not None:
            return StatedConfig(_object(name, CONFIG, content))
        content = read_remote(name, ADAPTER_CONFIG)
        if content is not None:
            return _of_base(str(name), _object(name, ADAPTER_CONFIG, content), depth)
    repository = list_repository(name)
    if repository is None:
        raise unreachable(name)
    if repository.name.tag is None:
        choose_files(name, repository.paths)  # which says what a repository of GGUF files, or without weights, is
        raise CheckpointError(f"`{name}` has no {CONFIG}", hint="another repository of the same model")
    return _of_gguf(read_headers(repository))


def _of_gguf(path: Path) -> StatedConfig:
    opened = open_gguf(path)
    kinds = [info.kind for info in opened.tensors.values() if len(info.shape) > 1]
    return StatedConfig(opened.config, max(set(kinds), key=kinds.count) if kinds else "GGUF")


def _of_base(model: str, adapter: dict[str, Any], depth: int) -> StatedConfig:
    base = adapter.get(_BASE)
    if not isinstance(base, str) or not base:
        raise CheckpointError(f"`{model}` is an adapter whose {ADAPTER_CONFIG} names no {_BASE}")
    return read_config(base, depth + 1)


def _object(name: HubName, path: str, content: bytes) -> dict[str, Any]:
    try:
        value = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"`{path}` of `{name}` is no JSON: {error}") from error
    if not isinstance(value, dict):
        raise CheckpointError(f"`{path}` of `{name}` holds no JSON object")
    return value
