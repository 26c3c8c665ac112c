"""A LoRA adapter's folder as PEFT writes it: adapter_config.json, and low-rank or whole tensors by the modules that they change.

What the configuration asks for is computed, or refused by its key. Keys that only tell how the adapter was trained are read over.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from ovround.artifact.manifest import sha256_file
from ovround.checkpoint.files.json_object import read_json
from ovround.checkpoint.files.safetensors_file import open_safetensors
from ovround.checkpoint.files.torch_file import LoadedFile, open_torch
from ovround.checkpoint.files.weights_file import WeightsFile
from ovround.checkpoint.lora.arithmetic import plain_scaling
from ovround.checkpoint.pattern import Pattern
from ovround.errors import CheckpointError
from ovround.tensors.float_tensor import FloatTensor

CONFIG, WEIGHTS, PICKLED = "adapter_config.json", "adapter_model.safetensors", "adapter_model.bin"
_MERGE = "merge it with the library that made it (PEFT: merge_and_unload), and convert the merged model"
# How it was trained, where it was put, or what the tensors themselves say.
_TOLD = frozenset({
    "alpha_pattern", "auto_mapping", "base_model_name_or_path", "bias", "corda_config", "eva_config", "exclude_modules",
    "fan_in_fan_out", "inference_mode", "init_lora_weights", "layers_pattern", "layers_to_transform", "lora_alpha",
    "lora_bias", "lora_dropout", "megatron_core", "modules_to_save", "peft_type", "peft_version", "qalora_group_size", "r",
    "rank_pattern", "revision", "runtime_config", "target_modules", "task_type", "trainable_token_indices", "use_dora",
    "use_rslora", "unsloth_fixed", "library_name",
})  # fmt: skip
_STARTS = ("gaussian", "eva", "orthogonal")  # initial values that leave the base as it is; PiSSA and others change it
Kind = Literal["a", "b", "bias", "magnitude", "rows", "weight"]
_KINDS: tuple[tuple[re.Pattern[str], Kind], ...] = (
    (re.compile(r"(.+)\.lora_A(?:\.\w+)?\.weight"), "a"),
    (re.compile(r"(.+)\.lora_B(?:\.\w+)?\.weight"), "b"),
    (re.compile(r"(.+)\.lora_B(?:\.\w+)?\.bias"), "bias"),
    (re.compile(r"(.+)\.lora_embedding_A(?:\.\w+)?"), "a"),
    (re.compile(r"(.+)\.lora_embedding_B(?:\.\w+)?"), "b"),
    (re.compile(r"(.+)\.lora_magnitude_vector(?:\.\w+)*"), "magnitude"),
    (re.compile(r"(.+)\.token_adapter\.trainable_tokens_delta(?:\.\w+)?"), "rows"),
    (re.compile(r"(.+?)(?:\.base_layer|\.modules_to_save(?:\.\w+)?)?\.(?:weight|bias)"), "weight"),
)


@dataclass(frozen=True, slots=True)
class Adapter:
    """An opened folder; nothing but headers has been read.

    `modules` has the names of a module's tensors by kind: `a` and `b` of a low-rank change, the `bias` of b, DoRA's `magnitude`,
    new `rows` of an embedding, and by `weight`, or by the suffix `.bias` of the module, a tensor that replaces the base's.
    """

    folder: Path
    config: Mapping[str, Any]
    file: WeightsFile
    modules: Mapping[str, Mapping[Kind, str]]
    scale: float = 1.0

    @property
    def name(self) -> str:
        return self.folder.resolve().name

    def scaling(self, module: str, rank: int) -> float:
        """The factor of `module`'s change, `scale` included."""
        alpha = self.config.get("lora_alpha", 8)
        for pattern, value in (self.config.get("alpha_pattern") or {}).items():
            if Pattern(rf"(.*\.)?({pattern})$").match(module):
                alpha = value
                break
        if not isinstance(alpha, (int, float)) or isinstance(alpha, bool) or rank < 1:
            raise CheckpointError(
                f"`{self.folder / CONFIG}`: the lora_alpha of `{module}` is {alpha!r:.40}, its rank {rank}"
            )
        return self.scale * plain_scaling(alpha, rank, stabilised=self.config.get("use_rslora") is True)

    def shape(self, tensor: str) -> tuple[int, ...]:
        return self.file.tensors[tensor].shape

    def read(self, tensor: str) -> FloatTensor:
        return self.file.read(tensor)

    def token_indices(self, module: str) -> list[int]:
        """The rows of embedding `module` that are replaced; raises CheckpointError where the configuration names none."""
        stated = self.config.get("trainable_token_indices")
        if isinstance(stated, Mapping):
            stated = next((value for key, value in stated.items() if module == key or module.endswith(f".{key}")), None)
        rows = stated if isinstance(stated, list) else []
        if not rows or not all(isinstance(row, int) and not isinstance(row, bool) and row >= 0 for row in rows):
            raise CheckpointError(
                f"`{self.folder / CONFIG}`: trainable_token_indices names no rows of `{module}` ({stated!r:.60})"
            )
        return rows

    def scan(self) -> dict[str, str]:
        """sha256 of its two files by `name/file`; raises TensorError for NaN or infinity."""
        return {
            f"{self.name}/{CONFIG}": sha256_file(self.folder / CONFIG),
            f"{self.name}/{self.file.path.name}": self.file.scan(),
        }


def is_adapter(folder: Path) -> bool:
    """Whether `folder` is an adapter alone, without a model beside it."""
    return (folder / CONFIG).is_file() and not (folder / "config.json").is_file()


def open_adapter(folder: Path, scale: float = 1.0) -> Adapter:
    """Open an adapter's folder; raises CheckpointError for one that cannot be merged, by the key that forbids it."""
    if not (folder / CONFIG).is_file():
        raise CheckpointError(
            f"`{folder}` has no {CONFIG}: it is no LoRA adapter",
            hint="give the folder that save_pretrained of PEFT wrote",
        )
    config = read_json(folder / CONFIG)
    _check_config(folder / CONFIG, config)
    file: WeightsFile
    if (folder / WEIGHTS).is_file():
        file = open_safetensors(folder / WEIGHTS)
    elif (folder / PICKLED).is_file():
        file = open_torch(folder / PICKLED, LoadedFile())
    else:
        raise CheckpointError(f"`{folder}` has neither {WEIGHTS} nor {PICKLED}", hint="the adapter is not complete")
    return Adapter(folder, config, file, _modules(folder, file), scale)


def base_model(adapter: Adapter) -> str:
    """The model that the adapter was trained on, as adapter_config.json names it; raises CheckpointError where it names none."""
    name = adapter.config.get("base_model_name_or_path")
    if not isinstance(name, str) or not name:
        raise CheckpointError(
            f"`{adapter.folder}` is a LoRA adapter, and its {CONFIG} does not name its base model ({name!r:.40})",
            hint=f"ovround convert BASE OUT --adapter {adapter.folder}",
        )
    revision = adapter.config.get("revision")
    local = Path(name).expanduser().is_dir()
    return name if local or not isinstance(revision, str) or not revision else f"{name}@{revision}"


def _check_config(path: Path, config: Mapping[str, Any]) -> None:
    kind = config.get("peft_type")
    if kind != "LORA":
        raise CheckpointError(f"`{path}`: peft_type is {kind!r:.40}; LORA can be merged", hint=_MERGE)
    start = config.get("init_lora_weights", True)
    if not isinstance(start, bool) and start not in (None, *_STARTS):
        raise CheckpointError(
            f"`{path}`: init_lora_weights is {start!r:.40}, which changes the base model's own weights",
            hint="save it with PEFT as a plain adapter (path_initial_model_for_weight_conversion), or merge it there",
        )
    for key, value in config.items():
        if key not in _TOLD and value:
            raise CheckpointError(f"`{path}`: `{key}` is {value!r:.60}, which cannot be merged here", hint=_MERGE)


def _modules(folder: Path, file: WeightsFile) -> dict[str, dict[Kind, str]]:
    """Tensors by module, without the prefix of PEFT's wrapper, and kind; raises CheckpointError for an incomplete change."""
    modules: dict[str, dict[Kind, str]] = {}
    for tensor in file.tensors:
        name = tensor.removeprefix("base_model.model.")
        if ".original_module." in name:
            continue  # the base's own tensor, in whose place the trained one is used
        found = next(((match[1], kind) for pattern, kind in _KINDS if (match := pattern.fullmatch(name))), None)
        if found is None:
            raise CheckpointError(f"`{folder}` has a tensor `{tensor}` of a kind that is not known", hint=_MERGE)
        module, kind = found
        if kind == "weight" and name.endswith(".bias"):
            module = f"{module}.bias"
        known = modules.setdefault(module, {}).get(kind)
        # where the vocabulary has grown, PEFT saves an embedding under two names
        if known is not None and (kind != "weight" or not _equal(file, known, tensor)):
            raise CheckpointError(f"`{folder}` changes `{module}` twice: `{known}` and `{tensor}`")
        modules[module][kind] = tensor
    for module, tensors in modules.items():
        if ("a" in tensors) != ("b" in tensors) or (tensors.keys() & {"bias", "magnitude"} and "a" not in tensors):
            raise CheckpointError(
                f"`{folder}` has only {', '.join(tensors.values())} of `{module}`", hint="it is not complete"
            )
    if not modules:
        raise CheckpointError(f"`{file.path}` holds no tensors", hint="it is not complete")
    return modules


def _equal(file: WeightsFile, first: str, second: str) -> bool:
    return bool(np.array_equal(file.read(first).data, file.read(second).data))
