"""A Hugging Face checkpoint folder: config.json and safetensors weights, one file or shards with an index."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from ovround.artifact.manifest import CHECKPOINT_FORMATS, MANIFEST, check_files, read_manifest
from ovround.checkpoint.files.element_types import DOUBLE, FLOAT_TYPES, UNEXPLAINED, TensorInfo
from ovround.checkpoint.files.json_object import read_json
from ovround.checkpoint.files.safetensors_file import open_safetensors
from ovround.checkpoint.files.torch_file import LoadedFile, TorchFile, open_torch
from ovround.checkpoint.files.weight_files import is_pickled, weight_files
from ovround.checkpoint.files.weights_file import WeightsFile
from ovround.checkpoint.leftovers import left_out, notes, unwrapped
from ovround.checkpoint.text_part import is_multimodal, text_config
from ovround.errors import CheckpointError, TensorError
from ovround.tensors.float_tensor import FloatTensor

_LANGUAGE_MODELS = ("ForCausalLM", "LMHeadModel", "ForConditionalGeneration")


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """An opened folder; nothing but headers has been read. `config` is config.json, of a multimodal model its text model's.

    `notes` are sentences about how the folder is read, for whoever asked for it.
    """

    folder: Path
    config: dict[str, Any]
    files: tuple[WeightsFile, ...]
    notes: tuple[str, ...] = field(default=(), kw_only=True)

    def tensors(self) -> dict[str, TensorInfo]:
        """Every tensor by name, over all shards, as `read` gives it."""
        return {name: info.as_read() for file in self.files for name, info in file.tensors.items()}

    def read(self, name: str, index: int | None = None) -> FloatTensor:
        """Read one tensor, or its part at `index` of the first axis; raises TensorError when there is none of that name."""
        for file in self.files:
            if name in file.tensors:
                return file.read(name, index)
        raise TensorError(f"`{self.folder}` has no tensor `{name}`")

    def read_columns(self, name: str, columns: slice) -> FloatTensor:
        """These columns of a matrix; of a file that holds it as floats, nothing else stays in memory."""
        if type(self).read is Checkpoint.read:
            for file in self.files:
                if name in file.tensors:
                    return file.read_columns(name, columns)
        tensor = self.read(name)
        return FloatTensor(np.ascontiguousarray(tensor.data[:, columns]), tensor.dtype)

    def size_bytes(self) -> int:
        """Bytes of all tensors."""
        return sum(info.size_bytes for file in self.files for info in file.tensors.values())

    def check(self, expected: dict[str, tuple[int, ...]], ignored: Iterable[str] = ()) -> tuple[str, ...]:
        """Compare names, shapes and types with what the architecture expects; raises TensorError for the first difference.

        `ignored` ends the names of tensors that may be there without being used. Returns a sentence for each kind of
        `leftovers` that is there and left out.
        """
        infos = self.tensors()
        for name, shape in expected.items():
            if name not in infos:
                raise TensorError(
                    f"`{self.folder}` has no tensor `{name}`, which its config.json calls for",
                    hint=self._other_head() or "a shard may be missing, or config.json belongs to another model",
                )
            info = infos[name]
            if info.shape != shape:
                raise TensorError(
                    f"tensor `{name}` has shape {list(info.shape)}; its config.json calls for {list(shape)}",
                    hint="config.json belongs to another model",
                )
            if info.dtype not in FLOAT_TYPES:
                raise TensorError(
                    f"tensor `{name}` is {info.dtype}; {', '.join((*FLOAT_TYPES, DOUBLE))} can be read",
                    hint=UNEXPLAINED,
                )
        endings = tuple(ignored)
        kinds, foreign = left_out((name for name in infos if not name.endswith(endings)), expected)
        if foreign:
            raise TensorError(
                f"`{self.folder}` has {len(foreign)} tensor(s) that its config.json does not call for, such as `{foreign[0]}`",
                hint=f"model_type `{self.config.get('model_type')}` has no such tensor here: this variant is not supported, "
                "or config.json is not that of these weights",
            )
        return notes(kinds)

    def _other_head(self) -> str:
        """What the model is by `architectures`, where that is no language model; else empty."""
        stated = self.config.get("architectures")
        name = str(stated[0]) if isinstance(stated, list) and stated else ""
        if not name or name.endswith(_LANGUAGE_MODELS):
            return ""
        return f"architectures is `{name:.60}`: a model without a head that predicts tokens writes no text"

    def scan(self) -> dict[str, str]:
        """sha256 of each weights file and of config.json, having checked every value; raises TensorError for NaN or infinity.

        In a folder that ovround wrote, CheckpointError for a file that has changed since.
        """
        digests = {file.path.name: file.scan() for file in self.files}
        if (self.folder / MANIFEST).is_file():
            records = read_manifest(self.folder).files
            changed = [name for name, digest in digests.items() if name in records and digest != records[name].sha256]
            if changed:
                raise CheckpointError(
                    f"`{self.folder / changed[0]}` has changed since it was written",
                    hint="convert again, or copy it again",
                )
        return digests


def open_checkpoint(folder: Path) -> Checkpoint:
    """Open an unquantised folder; raises CheckpointError (or HeaderError) saying which file is missing or damaged."""
    checkpoint = open_folder(folder)
    if checkpoint.config.get("quantization_config"):
        method = checkpoint.config["quantization_config"]
        name = method.get("quant_method", "?") if isinstance(method, dict) else method
        raise CheckpointError(
            f"`{folder}` is quantised already ({name})", hint="start from the original, unquantised checkpoint"
        )
    return checkpoint


def open_folder(folder: Path) -> Checkpoint:
    """Open a folder whatever its tensors are; raises as `open_checkpoint` does."""
    if not folder.is_dir():
        raise CheckpointError(
            f"`{folder}` is no folder", hint="give a Hugging Face model folder or a hub name (org/model)"
        )
    if (folder / MANIFEST).is_file():
        manifest = read_manifest(folder)
        if manifest.format not in CHECKPOINT_FORMATS:
            raise CheckpointError(
                f"`{folder}` was written by ovround for {manifest.format}", hint="start from the original checkpoint"
            )
        check_files(folder, manifest, contents=False)
    stated = read_json(folder / "config.json")
    config = text_config(stated)
    loaded = LoadedFile()
    opened = [
        _own_names(open_torch(path, loaded) if is_pickled(path) else open_safetensors(path))
        for path in weight_files(folder, config)
    ]
    files = tuple(file for file, _ in opened)
    holders: dict[str, Path] = {}
    for file in files:
        for name in file.tensors:
            if name in holders:
                raise TensorError(f"tensor `{name}` is in `{holders[name].name}` and in `{file.path.name}`")
            holders[name] = file.path
    wrappers = sorted({what for _, found in opened for what in found})
    said = [f"names are read without the prefixes of {', '.join(wrappers)}"] if wrappers else []
    if is_multimodal(stated):
        said.append(
            f"the text model of a multimodal {stated['model_type']} is read, as model_type {config['model_type']}"
        )
    whole = [file.path.name for file in files if isinstance(file, TorchFile) and not file.mapped]
    if whole:
        said.append(
            f"{', '.join(whole)}: the format of torch before 1.6 cannot be mapped, each file is held in memory as a whole"
        )
    return Checkpoint(folder, config, files, notes=tuple(said))


def _own_names(file: WeightsFile) -> tuple[WeightsFile, frozenset[str]]:
    """`file` under the model's own names, and who wrapped them."""
    names: dict[str, str] = {}
    wrappers: frozenset[str] = frozenset()
    own_names = set()
    for name in file.tensors:
        own, found = unwrapped(name)
        if own in own_names:
            raise TensorError(
                f"tensor `{own}` is in `{file.path.name}` twice, with and without the prefix of a wrapper"
            )
        names[name] = own
        own_names.add(own)
        wrappers |= found
    return (file.renamed(names) if wrappers else file), wrappers
