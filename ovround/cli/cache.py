"""`ovround cache`: the models that other commands converted and kept."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ovround.cli.option_flags import PanelCommand
from ovround.cli.printing import megabytes, print_json, print_table
from ovround.cli.shared_flags import Json, Quiet
from ovround.cli.working import Working
from ovround.errors import UsageError

if TYPE_CHECKING:
    from ovround.conversion.cache import CachedModel, ModelCache

NAME = "cache"
app = typer.Typer(
    help="List and remove the models that were kept.", no_args_is_help=True,
    rich_markup_mode=None,
)  # fmt: skip


@app.command("list", cls=PanelCommand)
def list_models(
    check: Annotated[bool, typer.Option("--check", help="Check of every byte against the manifests.")] = False,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """List the models in the cache: source, engine, weights, size, last use."""
    cache = _cache()
    models = cache.models()
    with Working("comparing every file with its manifest", quiet=quiet):
        damage = {model.key: model.damage(contents=True) for model in models} if check else {}
    if json:
        rows = [
            {
                "key": model.key, "folder": str(model.folder), "models": list(model.record.models),
                "identity": model.record.identity, "format": model.record.format, "weights": _weights(model),
                "version": model.record.version, "size_bytes": model.record.size_bytes,
                "created_s": model.record.created_s, "used_s": model.used_s,
            }
            | ({"damage": damage[model.key]} if check else {})
            for model in models
        ]  # fmt: skip
        print_json({"folder": str(cache.folder), "models": rows})
    else:
        _print(cache, models)
    damaged = {key: words for key, words in damage.items() if words is not None}
    for key, words in damaged.items():
        typer.echo(f"damaged: {key}: {words}", err=True)
    if damaged:
        raise typer.Exit(1)


@app.command("remove", cls=PanelCommand)
def remove(
    model: Annotated[list[str], typer.Argument(help="Model as it was named, or its key in `ovround cache list`.")],
) -> None:
    """Remove models from the cache; the next command that names one converts it again."""
    cache = _cache()
    for one in cache.select(model):
        cache.remove(one)
        _say_removed(one)


@app.command("prune", cls=PanelCommand)
def prune(
    older_than: Annotated[
        float | None, typer.Option(help="Days without use after which a model is removed; default: no limit.")
    ] = None,
    larger_than: Annotated[
        str | None,
        typer.Option(help="Size of all, such as 20GB, beyond which the longest unused are removed; default: no limit."),
    ] = None,
) -> None:
    """Remove what killed conversions left and other versions of ovround made, and more by age or size."""
    from ovround.options.units import parse_size

    if older_than is not None and not older_than >= 0:
        raise UsageError(f"older-than is {older_than}; a number of days of 0 or more is needed")
    limit = None if larger_than is None else parse_size("larger-than", larger_than)
    cache = _cache()
    going = cache.to_prune(older_than, limit)
    for model in going:
        cache.remove(model)
        _say_removed(model)
    freed = cache.remove_left_overs()
    if freed:
        typer.echo(f"removed what killed conversions left: {megabytes(freed)} MB")
    if not going and not freed:
        typer.echo("nothing to remove")


def _cache() -> ModelCache:
    from ovround.conversion.cache import ModelCache

    return ModelCache()


def _print(cache: ModelCache, models: list[CachedModel]) -> None:
    if not models:
        typer.echo(f"no models in `{cache.folder}`")
        return
    rows = [
        [
            ", ".join(_short(name) for name in model.record.models), model.record.format, _weights(model),
            megabytes(model.record.size_bytes), _day(model.record.created_s), _day(model.used_s), model.key,
        ]
        for model in models
    ]  # fmt: skip
    print_table(["model", "engine", "weights", "MB", "converted", "last used", "key"], rows)
    total = sum(model.record.size_bytes for model in models)
    typer.echo(f"{len(models)} in `{cache.folder}`, {megabytes(total)} MB")


def _weights(model: CachedModel) -> str:
    return f"{model.record.method}, kept" if model.record.method else f"{model.record.bits} bits, rounded"


def _short(name: str) -> str:
    """A path below the home folder as people write it."""
    path = Path(name)
    inside = path.is_absolute() and path.is_relative_to(Path.home())
    return f"~/{path.relative_to(Path.home())}" if inside else name


def _day(seconds: float) -> str:
    return time.strftime("%Y-%m-%d", time.localtime(seconds))


def _say_removed(model: CachedModel) -> None:
    typer.echo(f"removed {model.key}: {', '.join(model.record.models)}, {megabytes(model.record.size_bytes)} MB")
