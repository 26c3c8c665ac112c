"""`ovround pull`: a model of the hub onto this disk, as much of it as is used, every byte compared with its hash."""

from __future__ import annotations

from typing import Annotated

import typer

from ovround.cli.shared_flags import Json, Quiet

NAME = "pull"


def command(
    model: Annotated[str, typer.Argument(help="Hub name: org/model[:Q4_K_M][@revision].")],
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Download the files of MODEL that other commands read, into the hub's own cache; a download that was stopped continues."""
    from ovround.checkpoint.locate import fetch, hub_name, local_path
    from ovround.cli.printing import megabytes, print_json
    from ovround.cli.progress import ProgressDisplay
    from ovround.errors import UsageError

    there = local_path(model)
    if there is not None:
        raise UsageError(f"`{model}` is on this disk: `{there}`", hint="a hub name such as org/model is downloaded")
    with ProgressDisplay(f"comparing what is here with {model}", quiet=quiet) as display:
        path = fetch(hub_name(model), display, recheck=True)
    folder = path if path.is_dir() else path.parent
    files = [file for file in folder.rglob("*") if file.is_file()]
    size_bytes = sum(file.stat().st_size for file in files)
    if json:
        print_json({"path": str(path), "size_bytes": size_bytes, "files": len(files)})
    else:
        typer.echo(f"{path}: {len(files)} files, {megabytes(size_bytes)} MB, hashes as the hub states them")
