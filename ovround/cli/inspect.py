"""`ovround inspect`: what is in a checkpoint or in a converted folder, from headers and manifest alone."""

from __future__ import annotations

import dataclasses
from collections.abc import Hashable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ovround.cli.equal_layers import equal_layers
from ovround.cli.shared_flags import Json, Quiet
from ovround.cli.working import Working

if TYPE_CHECKING:
    from ovround.artifact.manifest import Manifest, WeightRecord
    from ovround.checkpoint import Checkpoint

NAME = "inspect"


def command(
    path: Annotated[str, typer.Argument(help="Checkpoint folder, GGUF file, converted folder, hub name, or `demo`.")],
    check: Annotated[
        bool, typer.Option("--check", help="Comparison of every file with the sha256 in the manifest.")
    ] = False,
    every: Annotated[bool, typer.Option("--all", help="A line for each tensor; default: equal layers in one.")] = False,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """List layers, bits and sizes of what is in PATH; of a hub name nothing but headers is fetched."""
    from ovround.artifact.manifest import MANIFEST, check_files, read_manifest
    from ovround.checkpoint import Checkpoint, GgufCheckpoint, open_source
    from ovround.checkpoint.locate import local_path
    from ovround.errors import UsageError

    folder = _headers(path, quiet=quiet)
    if (folder / MANIFEST).is_file():
        manifest = read_manifest(folder)
        with Working(f"comparing the files of {path} with the manifest", quiet=quiet):
            check_files(folder, manifest, contents=check)
        _converted(folder, manifest, checked=check, every=every, json=json)
        return
    inner = sorted(entry.name for entry in folder.iterdir() if (entry / MANIFEST).is_file()) if folder.is_dir() else []
    if inner:
        raise UsageError(
            f"`{folder}` holds {len(inner)} converted folders", hint=f"ovround inspect {folder / inner[0]}"
        )
    if check:
        raise UsageError(f"`{folder}` has no {MANIFEST} to check against", hint="leave out --check for a checkpoint")
    with Working(f"reading {path}", quiet=quiet):
        source = open_source(folder)
    stored = source if isinstance(source, Checkpoint) else source.stored
    files = len(source.files if isinstance(source, GgufCheckpoint) else stored.files)
    _checkpoint(stored, str(folder) if local_path(path) is not None else path, files, every=every, json=json)


def _headers(path: str, *, quiet: bool) -> Path:
    """The folder or file of what is on this disk; of a hub name one with the headers, or all of it where weights have none."""
    from ovround.checkpoint.hub import list_repository
    from ovround.checkpoint.hub.remote import read_headers
    from ovround.checkpoint.locate import hub_name, local_path
    from ovround.cli.model_argument import located

    found = local_path(path)
    if found is not None:
        return found
    with Working(f"reading the headers of {path}", quiet=quiet):
        repository = list_repository(hub_name(path))
        headers = None if repository is None else read_headers(repository)
    if headers is not None and (headers.is_file() or any(headers.glob("*.safetensors"))):
        return headers
    return located(path, quiet=quiet)


def _converted(folder: Path, manifest: Manifest, *, checked: bool, every: bool, json: bool) -> None:
    from ovround.cli.printing import megabytes, print_json, print_table

    if json:
        print_json(dataclasses.asdict(manifest))
        return
    size = sum(weight.size_bytes for weight in manifest.weights)
    typer.echo(
        f"{folder}: {manifest.model_type} from {manifest.source_name}, for {manifest.format}, ovround {manifest.ovround_version}"
    )
    rows = []
    for group in equal_layers(manifest.weights, lambda weight: weight.name, partial(_kind, every=every)):
        first, errors = group.tensors[0], [weight.relative_error for weight in group.tensors]
        rows.append(
            [
                group.name, "x".join(str(n) for n in first.shape), first.bits, first.group_size or "-", _scheme(first),
                megabytes(sum(weight.size_bytes for weight in group.tensors)),
                f"{sum(errors) / len(errors):.4f}" if first.group_size else "-",
            ]
        )  # fmt: skip
    print_table(["weight", "shape", "bits", "group", "scheme", "MB", "error"], rows)
    typer.echo(
        f"{len(manifest.weights)} weights, {megabytes(size)} MB; files {'match' if checked else 'have the sizes of'} the manifest"
    )


def _scheme(weight: WeightRecord) -> str:
    if not weight.group_size:
        return "float"
    return weight.codebooks or weight.affine or ("sym" if weight.symmetric else "asym")


def _kind(weight: WeightRecord, *, every: bool) -> Hashable:
    """What equal layers have in common."""
    if every:
        return weight.name
    return weight.shape, weight.bits, weight.group_size, _scheme(weight)


def _checkpoint(checkpoint: Checkpoint, name: str, files: int, *, every: bool, json: bool) -> None:
    from ovround.cli.printing import megabytes, print_json, print_table
    from ovround.models import family_of

    model_type = checkpoint.config.get("model_type")
    supported = family_of(model_type) is not None
    tensors = checkpoint.tensors()
    if json:
        print_json(
            {
                "model_type": model_type, "supported": supported, "size_bytes": checkpoint.size_bytes(),
                "tensors": {name: {"dtype": info.dtype, "shape": info.shape} for name, info in tensors.items()},
            }
        )  # fmt: skip
        return
    known = "can be converted" if supported else "not a family that can be converted"
    typer.echo(f"{name}: checkpoint, model_type {model_type}, {known}")
    groups = equal_layers(
        tensors, lambda name: name, lambda name: name if every else (tensors[name].dtype, tuple(tensors[name].shape))
    )
    rows = []
    for group in groups:
        infos = [tensors[name] for name in group.tensors]
        size_bytes = sum(info.size_bytes for info in infos)
        rows.append([group.name, "x".join(str(n) for n in infos[0].shape), infos[0].dtype, megabytes(size_bytes)])
    print_table(["tensor", "shape", "type", "MB"], rows)
    typer.echo(f"{len(tensors)} tensors in {files} file(s), {megabytes(checkpoint.size_bytes())} MB")
