"""A model as far as it is known before its weights are there: configuration, headers and sizes of files, local or on the hub.

It is planned by the functions that plan a conversion, so what is foretold is what would be written.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ovround.checkpoint import Checkpoint, PackedCheckpoint, open_source
from ovround.checkpoint.files.json_object import read_json
from ovround.checkpoint.hub import earlier_download, list_repository
from ovround.checkpoint.hub.remote import read_headers
from ovround.checkpoint.locate import hub_name, local_path
from ovround.checkpoint.text_part import text_config
from ovround.conversion.preparation import as_asked, item_sizes, plan_source
from ovround.errors import CheckpointError
from ovround.models import from_config
from ovround.models.decoder import Decoder
from ovround.options.convert_options import ConvertOptions
from ovround.quant.plan import Plan, make_plan

_TOKENIZER = "tokenizer.json"
_BYTES_PER_TOKEN = (
    100  # of tokenizer.json, where only the size of the vocabulary is known: 60 to 130 in models of 49 k to 262 k
)
_WEIGHTS = (".safetensors", ".bin", ".gguf", ".pt", ".pth")


@dataclass(frozen=True, slots=True)
class Outline:
    """`source` None: there is a configuration alone. `download_bytes` are 0 for what is on this disk."""

    config: Mapping[str, Any]
    source: Checkpoint | PackedCheckpoint | None
    tokenizer_bytes: int
    download_bytes: int

    @property
    def method(self) -> str:
        """How the source is quantised; empty for floats, which are rounded or tuned."""
        return "" if self.source is None or isinstance(self.source, Checkpoint) else self.source.method

    def planned(self, options: ConvertOptions) -> tuple[Decoder, Plan, dict[str, int]]:
        """The decoder, the scheme of each module, and bytes of an element of each tensor in the source."""
        if self.source is None:
            decoder = from_config(self.config)
            size = 4 if str(self.config.get("dtype") or self.config.get("torch_dtype")) == "float32" else 2
            return decoder, make_plan(decoder, options), dict.fromkeys(decoder.every_tensor(), size)
        checkpoint, _, decoder, plan, _ = plan_source(as_asked(self.source, options), options)
        return decoder, plan, item_sizes(checkpoint)


def outline(model: str) -> Outline:
    """What is known of a folder, GGUF file or hub name, of which nothing but headers is read; of an adapter, its base.

    Raises CheckpointError, TensorError or ArchitectureError for what could not be converted.
    """
    path = Path(model).expanduser()
    if path.suffix == ".json" and path.is_file():
        return _outlined(path.parent, config_alone=True)
    found = local_path(model)
    if found is not None:
        return _outlined(found)
    name = hub_name(model)
    repository = list_repository(name)
    if repository is None:
        return _outlined(earlier_download(name))
    folder = read_headers(repository)
    sizes = {file.path: file.size_bytes for file in repository.files}
    return _outlined(folder, tokenizer_bytes=sizes.get(_TOKENIZER, 0), download_bytes=sum(_downloaded(folder, sizes)))


def _downloaded(folder: Path, sizes: Mapping[str, int]) -> list[int]:
    there = folder.iterdir() if folder.is_dir() else folder.parent.iterdir()
    names = {path.name for path in there}
    return [size for path, size in sizes.items() if path.rpartition("/")[2] in names or path == _TOKENIZER]


def _outlined(path: Path, *, config_alone: bool = False, tokenizer_bytes: int = 0, download_bytes: int = 0) -> Outline:
    folder = path if path.is_dir() else path.parent
    if not tokenizer_bytes and (folder / _TOKENIZER).is_file():
        tokenizer_bytes = (folder / _TOKENIZER).stat().st_size
    if (path / "adapter_config.json").is_file() and not (path / "config.json").is_file():
        base = read_json(path / "adapter_config.json").get("base_model_name_or_path")
        if not isinstance(base, str):
            raise CheckpointError(f"`{path}` is an adapter that names no base model")
        return outline(base)
    has_weights = path.is_file() or any(file.suffix in _WEIGHTS for file in path.iterdir())
    source = open_source(path) if has_weights and not config_alone else None
    config = dict(source.config) if source is not None else text_config(read_json(path / "config.json"))
    vocabulary = config.get("vocab_size")
    if not tokenizer_bytes and isinstance(vocabulary, int):
        tokenizer_bytes = _BYTES_PER_TOKEN * vocabulary
    return Outline(config, source, tokenizer_bytes, download_bytes)
