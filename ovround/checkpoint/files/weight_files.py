"""Which files of a checkpoint folder hold the weights: transformers' order, then the names that older tools gave.

model.safetensors, its index, the name that AutoGPTQ's settings state, pytorch_model.bin, its index, shards without an index, and
at last the only safetensors file that is no adapter.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ovround.checkpoint.files.json_object import read_json
from ovround.errors import CheckpointError

WEIGHTS, INDEX = "model.safetensors", "model.safetensors.index.json"
PICKLED, PICKLED_INDEX = "pytorch_model.bin", "pytorch_model.bin.index.json"
ADAPTER = "adapter_model.safetensors"
SETTINGS = "quantize_config.json"
_BASE_NAME = "model_file_base_name"
_SHARD = re.compile(r"(.+)-(\d{5})-of-(\d{5})\.safetensors")


def weight_files(folder: Path, config: Mapping[str, Any]) -> list[Path]:
    """The files that hold the weights of `folder`; raises CheckpointError where there are none, or it is not clear which."""
    found = _named(folder, WEIGHTS, INDEX, ".safetensors")
    base = _base_name(folder, config)
    if not found and base:
        found = _named(folder, f"{base}.safetensors", f"{base}.safetensors.index.json", ".safetensors")
    found = found or _named(folder, PICKLED, PICKLED_INDEX, ".bin") or _unnamed(folder)
    if not found and base:
        found = _named(folder, f"{base}.bin", f"{base}.bin.index.json", ".bin")
    if found:
        return found
    others = [path.name for path in _candidates(folder)] or sorted(
        path.name for kind in ("*.bin", "*.pt", "*.pth") for path in folder.glob(kind)
    )
    rest = f"; it has {', '.join(others[:4])}{', ...' if len(others) > 4 else ''}" if others else ""
    raise CheckpointError(
        f"`{folder}` has neither {WEIGHTS} nor {INDEX} nor {PICKLED}{rest}",
        hint=f"rename the file of the model to {WEIGHTS} or {PICKLED}"
        if others
        else "the weights are still to be copied or downloaded; a hub name, such as org/model, is downloaded whole",
    )


def has_safetensors(folder: Path) -> bool:
    """Whether `folder` has any safetensors file but an adapter's."""
    return bool(_candidates(folder))


def is_pickled(path: Path) -> bool:
    """Whether torch wrote the file, and not safetensors."""
    return path.suffix != ".safetensors"


def _named(folder: Path, single: str, index: str, ending: str) -> list[Path]:
    """The file `single`, or the shards that `index` names; nothing where neither is there."""
    if (folder / single).is_file():
        return [folder / single]
    if not (folder / index).is_file():
        return []
    weight_map = read_json(folder / index).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise CheckpointError(f"`{folder / index}` has no weight_map")
    names = sorted({str(name) for name in weight_map.values()})
    for name in names:
        if Path(name).name != name or not name.endswith(ending):
            raise CheckpointError(f"`{folder / index}` points to `{name}`, which is no file of that folder")
        if not (folder / name).is_file():
            raise CheckpointError(f"shard `{folder / name}` is missing", hint="download the checkpoint again")
    return [folder / name for name in names]


def _base_name(folder: Path, config: Mapping[str, Any]) -> str:
    """The name without its ending that AutoGPTQ's settings give the weights file; empty where they give none."""
    stated = config.get("quantization_config")
    settings = stated if isinstance(stated, dict) else {}
    if not settings and (folder / SETTINGS).is_file():
        settings = read_json(folder / SETTINGS)
    name = settings.get(_BASE_NAME)
    return name if isinstance(name, str) and Path(name).name == name else ""


def _candidates(folder: Path) -> list[Path]:
    return sorted(path for path in folder.glob("*.safetensors") if path.name != ADAPTER)


def _unnamed(folder: Path) -> list[Path]:
    """All shards of one model without an index, or the only safetensors file."""
    files = _candidates(folder)
    if len(files) == 1 and not _SHARD.fullmatch(files[0].name):
        return files
    shards = [_SHARD.fullmatch(path.name) for path in files]
    kinds = {(match[1], int(match[3])) for match in shards if match}
    if len(kinds) != 1 or None in shards:
        return []
    count = kinds.pop()[1]
    numbers = [int(match[2]) for match in shards if match]
    if numbers != list(range(1, count + 1)):
        missing = sorted(set(range(1, count + 1)) - set(numbers))
        raise CheckpointError(
            f"`{folder}` has {len(numbers)} of {count} shards; number {missing[0] if missing else numbers[-1]} is missing",
            hint="download the checkpoint again",
        )
    return files
