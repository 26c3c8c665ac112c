"""Opens a GGUF file: all its parts, the configuration, and a folder with the small files that a checkpoint has beside its weights.

A file alone has everything in its metadata: config.json, the tokenizer and the chat template are written from it into a
folder that is removed when the process ends. A file beside a config.json takes the folder's own files; the two must agree.
"""

from __future__ import annotations

import atexit
import json
import re
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ovround.checkpoint.files.json_object import read_json
from ovround.checkpoint.files.small_files import check_links, model_files
from ovround.checkpoint.gguf.architectures import Architecture, architecture_for
from ovround.checkpoint.gguf.checkpoint import GgufCheckpoint
from ovround.checkpoint.gguf.config import config_of
from ovround.checkpoint.gguf.header import GgufHeader, Metadata, TensorInfo, read_header
from ovround.checkpoint.gguf.rope import FACTORS
from ovround.checkpoint.gguf.rows import read_bytes
from ovround.checkpoint.gguf.tokenizer import tokenizer_files
from ovround.checkpoint.gguf.types import dequantize
from ovround.errors import CheckpointError

SPLIT = re.compile(r"(.+)-(\d{5})-of-(\d{5})\.gguf")
_MOST_PARTS, _MOST_FACTORS = 1000, 1 << 16
# What a folder may say otherwise without another number being computed.
_FREE = {"vocab_size", "tie_word_embeddings", "architectures", "bos_token_id", "eos_token_id", "pad_token_id"}


def find_gguf(folder: Path) -> Path | None:
    """The one GGUF model of a folder without other weights, or the first part of a split one.

    Raises CheckpointError for several.
    """
    if not folder.is_dir() or any(folder.glob("*.safetensors*")):
        return None
    names = sorted(path.name for path in folder.glob("*.gguf") if not path.name.startswith("mmproj"))
    split = {name: SPLIT.fullmatch(name) for name in names}
    models = [name for name in names if (match := split[name]) is None or int(match[2]) == 1]
    if len(models) > 1:
        raise CheckpointError(
            f"`{folder}` has {len(models)} GGUF files", hint=f"name one of them, such as {folder / models[0]}"
        )
    return folder / models[0] if models else None


def open_gguf(path: Path) -> GgufCheckpoint:
    """Open a GGUF file, or any part of a split one; nothing but headers is read.

    Raises CheckpointError for one that is damaged, of an architecture that no family computes, or that a config.json beside
    it contradicts.
    """
    header = read_whole(path)
    _check_kind(path, header.metadata)
    architecture, config = config_of(header.metadata, header.tensors, _factors(header))
    folder, config = _source_folder(path, architecture, header.metadata, config)
    return GgufCheckpoint(path, folder, architecture, config, header.tensors)


def read_whole(path: Path) -> GgufHeader:
    """The header of a file with the tensors of all its parts; raises CheckpointError for a part that is missing or foreign."""
    header = read_header(path)
    count = header.metadata.get("split.count", 0)
    if not isinstance(count, int) or count <= 1:
        return header
    match = SPLIT.fullmatch(path.name)
    if match is None or int(match[3]) != count or count > _MOST_PARTS:
        raise CheckpointError(
            f"`{path}` is one of {count} parts, yet is not named so",
            hint=f"parts are named NAME-00001-of-{count:05}.gguf, and lie in one folder",
        )
    metadata: Metadata = {}
    tensors: dict[str, TensorInfo] = {}
    for number in range(1, count + 1):
        part = path.with_name(f"{match[1]}-{number:05}-of-{match[3]}.gguf")
        if not part.is_file():
            raise CheckpointError(f"`{part}` is missing: the file was split into {count}", hint="download all parts")
        read = header if part == path else read_header(part)
        twice = next((name for name in read.tensors if name in tensors), None)
        if twice is not None:
            raise CheckpointError(f"tensor `{twice}` is in `{part.name}` and in a part before it")
        if number == 1:
            metadata = read.metadata
        tensors |= read.tensors
    stated = metadata.get("split.tensors.count", len(tensors))
    if stated != len(tensors):
        raise CheckpointError(
            f"the parts of `{path}` have {len(tensors)} tensors; {stated} were split", hint="download all"
        )
    return GgufHeader(metadata, tensors)


_OTHER_KINDS = {
    "mmproj": ("the projector of a multimodal model's images", "give the file of its text model, which lies beside it"),
    "adapter": ("a LoRA adapter", "--adapter takes its PEFT folder (adapter_config.json, adapter_model.safetensors)"),
    "imatrix": ("an importance matrix", "give the file of the model"),
}  # general.type


def _check_kind(path: Path, metadata: Metadata) -> None:
    """Raise CheckpointError for a file of llama.cpp's that is no model."""
    kind = "mmproj" if metadata.get("general.architecture") == "clip" else metadata.get("general.type")
    what, way_out = _OTHER_KINDS.get(str(kind), ("", ""))
    if what:
        raise CheckpointError(f"`{path}` is {what}, not a model", hint=way_out)


def _factors(header: GgufHeader) -> dict[str, list[float]]:
    """The values of the small tensors that the rotation needs."""
    found = {}
    for name in FACTORS:
        info = header.tensors.get(name)
        if info is not None:
            if len(info.shape) != 1 or info.shape[0] > _MOST_FACTORS:
                raise CheckpointError(f"tensor `{name}` has shape {list(info.shape)}; one axis is needed")
            found[name] = [float(str(value)) for value in dequantize(read_bytes(info), info.kind)]
    return found


def _source_folder(
    path: Path, architecture: Architecture, metadata: Metadata, config: dict[str, Any]
) -> tuple[Path, dict[str, Any]]:
    """The folder with config.json and tokenizer, and that config.json."""
    beside = path.parent / "config.json"
    if beside.is_file():
        stated = read_json(beside)
        if any(stated.get(architecture.keys[key]) is not None for key in ("block_count", "embedding_length")):
            _check_agreement(beside, path, architecture, stated, config)
            changed = {key: config[key] for key in ("vocab_size", "tie_word_embeddings")}
            config = {**stated, **changed}
            same_size = stated.get("vocab_size", changed["vocab_size"]) == changed["vocab_size"]
            if same_size and (path.parent / "tokenizer.json").is_file():
                return path.parent, config
    folder = Path(tempfile.mkdtemp(prefix="ovround-gguf-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    files: Mapping[str, bytes] = {}
    if beside.is_file() and (path.parent / "tokenizer.json").is_file():
        check_links(path.parent)
        files = {name: (path.parent / name).read_bytes() for name in model_files(path.parent)}
    else:
        files = tokenizer_files(metadata)
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    return folder, config


def _check_agreement(
    beside: Path, path: Path, architecture: Architecture, stated: Mapping[str, Any], config: Mapping[str, Any]
) -> None:
    """Raise CheckpointError for the first key that config.json and the file state differently."""
    family = stated.get("model_type")
    own = architecture_for(family) if isinstance(family, str) else None
    if family != config["model_type"] and (own is None or own.name != architecture.name):
        raise CheckpointError(
            f"`{beside}` is of model_type `{family!s:.40}`; `{path.name}` is of architecture `{architecture.name}`, "
            f"whose model_type is {config['model_type']}",
            hint="config.json belongs to another model",
        )
    for key, spelled in architecture.keys.items():
        if spelled in _FREE or key == "context_length" or spelled not in config:
            continue
        value = _value(stated, spelled)
        if value is not None and not _same(value, config[spelled]):
            raise CheckpointError(
                f"`{beside}` says that `{spelled}` is {value!r:.40}; `{path.name}` says {config[spelled]!r:.40} "
                f"(`{architecture.name}.{key}`)",
                hint="config.json belongs to another model: remove it, and the file's own configuration is taken",
            )


def _value(stated: Mapping[str, Any], key: str) -> Any:
    """The value of a key; a rotation's base may lie among its parameters."""
    if key not in ("rope_theta", "rope_local_base_freq", "rotary_emb_base") or stated.get(key) is not None:
        return stated.get(key)
    parameters = stated.get("rope_parameters")
    if not isinstance(parameters, Mapping):
        return None
    kind = "sliding_attention" if key == "rope_local_base_freq" else "full_attention"
    nested = parameters.get(kind, parameters)
    return (
        nested.get("rope_theta")
        if isinstance(nested, Mapping) and (nested is not parameters or kind[0] == "f")
        else None
    )


def _same(one: Any, other: Any) -> bool:
    numbers = all(isinstance(value, (int, float)) for value in (one, other))
    return bool(abs(one - other) <= 1e-6 * max(abs(one), abs(other))) if numbers else bool(one == other)
