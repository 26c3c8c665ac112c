"""The source that a user names, with the adapters that are merged into it: by --adapter, or an adapter's folder as the model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from ovround.checkpoint import Checkpoint, PackedCheckpoint, locate, open_source
from ovround.checkpoint.files.small_files import check_links
from ovround.checkpoint.lora.adapted import adapted
from ovround.checkpoint.lora.adapter import Adapter, base_model, is_adapter, open_adapter
from ovround.checkpoint.mapped import located
from ovround.checkpoint.overlay import Overlay, has_template, has_tokenizer
from ovround.errors import CheckpointError, UsageError
from ovround.models import from_config
from ovround.models.decoder import HEAD
from ovround.models.tied_head import with_head
from ovround.options.adapter_choice import AdapterChoice

_LONGEST_CHAIN = 8  # adapters of adapters


def open_adapted(folder: Path, choices: Sequence[AdapterChoice] = ()) -> Checkpoint | PackedCheckpoint:
    """The source in `folder`, with the adapters in `choices` merged in; of an adapter's folder, its base with it merged in.

    A tokenizer or chat template in an adapter's folder stands in for the base's. Raises CheckpointError for what cannot be
    opened or merged, and UsageError for adapters of a source whose weights are quantised already.
    """
    adapters = [open_adapter(locate(choice.model), choice.scale) for choice in choices]
    notes: list[str] = []
    while is_adapter(folder):
        own = open_adapter(folder)
        folder, named = _base_of(own), Path(str(own.config["base_model_name_or_path"])).expanduser()
        adapters.insert(0, own)
        shown = named.resolve().name if named.is_dir() else named  # places change no bytes
        notes.append(f"the base model of adapter {own.name} is {shown}")
        if len(notes) > _LONGEST_CHAIN:
            raise CheckpointError(f"`{folder}` is an adapter of an adapter, {_LONGEST_CHAIN} times")
    source = open_source(folder)
    if not adapters:
        return source
    if not isinstance(source, Checkpoint):
        raise UsageError(
            f"adapter `{adapters[0].name}` cannot be merged into `{folder}`, whose weights are quantised already ({source.method})",
            hint="give the unquantised base model: ovround convert BASE OUT --adapter " + str(adapters[0].folder),
        )
    decoder = from_config(source.config)
    places = located(with_head(decoder, own=True).sources(), source)
    embedding, head = (places[f"{module}.weight"].name for module in (decoder.embedding_at, HEAD))
    merged = adapted(source, adapters, embedding, head, tied=decoder.head_at != HEAD)
    merged = replace(merged, notes=(*merged.notes, *notes))
    over = [one.folder for one in adapters if has_tokenizer(one.folder) or has_template(one.folder)]
    if not over and merged.config == source.config:
        return merged
    for one in (source.folder, *over):
        check_links(one)
    overlay = Overlay(source.folder, over, merged.config)
    said = [f"tokenizer or chat template of adapter {one.name} are used" for one in adapters if one.folder in over]
    return replace(merged, folder=overlay.path, kept=overlay, notes=(*merged.notes, *said))


def _base_of(adapter: Adapter) -> Path:
    name = base_model(adapter)
    try:
        return locate(name)
    except CheckpointError as error:
        raise CheckpointError(
            f"`{adapter.folder}` is a LoRA adapter of `{name}`, which cannot be opened: {error}",
            hint=f"ovround convert BASE OUT --adapter {adapter.folder}, where BASE is the folder of that model",
        ) from error


def tokenizer_folder(folder: Path) -> Path:
    """Where the tokenizer of `folder` lies: an adapter without one has its base's."""
    while is_adapter(folder) and not has_tokenizer(folder):
        folder = _base_of(open_adapter(folder))
    return folder
