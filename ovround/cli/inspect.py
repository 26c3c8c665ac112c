"""`ovround inspect`: what is in a checkpoint or in a converted folder, from headers and manifest alone."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ovround.cli.shared_flags import Json

if TYPE_CHECKING:
    from ovround.artifact.manifest import Manifest
    from ovround.checkpoint import Checkpoint

NAME = "inspect"


def command(
    path: Annotated[str, typer.Argument(help="Checkpoint folder, GGUF file, converted folder, hub name, or `demo`.")],
    check: Annotated[
        bool, typer.Option("--check", help="Comparison of every file with the sha256 in the manifest.")
    ] = False,
    json: Json = False,
) -> None:
    """List layers, bits and sizes of what is in PATH."""
    from ovround.artifact.manifest import MANIFEST, check_files, read_manifest
    from ovround.checkpoint import Checkpoint, GgufCheckpoint, open_source
    from ovround.cli.model_argument import located
    from ovround.errors import UsageError

    folder = located(path)
    if (folder / MANIFEST).is_file():
        manifest = read_manifest(folder)
        check_files(folder, manifest, contents=check)
        _converted(folder, manifest, checked=check, json=json)
        return
    inner = sorted(entry.name for entry in folder.iterdir() if (entry / MANIFEST).is_file()) if folder.is_dir() else []
    if inner:
        raise UsageError(
            f"`{folder}` holds {len(inner)} converted folders", hint=f"ovround inspect {folder / inner[0]}"
        )
    if check:
        raise UsageError(f"`{folder}` has no {MANIFEST} to check against", hint="leave out --check for a checkpoint")
    source = open_source(folder)
    stored = source if isinstance(source, Checkpoint) else source.stored
    files = len(source.files if isinstance(source, GgufCheckpoint) else stored.files)
    _checkpoint(stored, folder, files, json=json)


def _converted(folder: Path, manifest: Manifest, *, checked: bool, json: bool) -> None:
    from ovround.cli.printing import megabytes, print_json, print_table

    if json:
        print_json(dataclasses.asdict(manifest))
        return
    size = sum(weight.size_bytes for weight in manifest.weights)
    typer.echo(
        f"{folder}: {manifest.model_type} from {manifest.source_name}, for {manifest.format}, ovround {manifest.ovround_version}"
    )
    rows = [
        [
            weight.name, "x".join(str(n) for n in weight.shape), weight.bits, weight.group_size or "-",
            "float" if not weight.group_size else weight.codebooks or weight.affine or ("sym" if weight.symmetric else "asym"),
            megabytes(weight.size_bytes), f"{weight.relative_error:.4f}" if weight.group_size else "-",
        ]
        for weight in manifest.weights
    ]  # fmt: skip
    print_table(["weight", "shape", "bits", "group", "scheme", "MB", "error"], rows)
    typer.echo(
        f"{len(rows)} weights, {megabytes(size)} MB; files {'match' if checked else 'have the sizes of'} the manifest"
    )


def _checkpoint(checkpoint: Checkpoint, folder: Path, files: int, *, json: bool) -> None:
    from ovround.cli.printing import megabytes, print_json, print_table
    from ovround.models import families

    model_type = checkpoint.config.get("model_type")
    tensors = checkpoint.tensors()
    if json:
        print_json(
            {
                "model_type": model_type, "supported": model_type in families(), "size_bytes": checkpoint.size_bytes(),
                "tensors": {name: {"dtype": info.dtype, "shape": info.shape} for name, info in tensors.items()},
            }
        )  # fmt: skip
        return
    known = (
        "can be converted"
        if model_type in families()
        else f"not a family that can be converted ({', '.join(families())})"
    )
    typer.echo(f"{folder}: checkpoint, model_type {model_type}, {known}")
    rows = [
        [name, "x".join(str(n) for n in info.shape), info.dtype, megabytes(info.size_bytes)]
        for name, info in tensors.items()
    ]
    print_table(["tensor", "shape", "type", "MB"], rows)
    typer.echo(f"{len(rows)} tensors in {files} file(s), {megabytes(checkpoint.size_bytes())} MB")
