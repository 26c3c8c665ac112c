"""A GGUF file of a hub repository by its quantisation, as llama.cpp and ollama name it: `org/repo:Q4_K_M`."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import PurePosixPath

from ovround.checkpoint.gguf.opening import SPLIT
from ovround.errors import CheckpointError


def parts_of_tag(files: Sequence[str], name: str, tag: str) -> list[str]:
    """The files of a repository that are one model of quantisation `tag`, in order; `tag` may be a file's name or path.

    Raises CheckpointError, with the quantisations that there are, for a tag that no file or more than one file has.
    """
    models = gguf_models(files)
    if not models:
        raise CheckpointError(f"`{name}` has no GGUF file", hint=f"`{name}` alone is a folder of other weights")
    part = SPLIT.fullmatch(tag)
    wanted = (tag if part is None else part[1]).lower().removesuffix(".gguf")
    found = [stem for stem in models if PurePosixPath(stem).name.lower() == wanted or stem.lower() == wanted]
    ending = re.compile(rf"(?:^|[-._]){re.escape(wanted)}$", re.IGNORECASE)
    found = found or [stem for stem in models if ending.search(PurePosixPath(stem).name)]
    if len(found) != 1:
        what = f"has no `{tag}`" if not found else f"has {len(found)} files of `{tag}`: {', '.join(found)}"
        raise CheckpointError(f"`{name}` {what}", hint=f"there are: {', '.join(tags(models))}")
    return models[found[0]]


def gguf_models(files: Sequence[str]) -> dict[str, list[str]]:
    """The GGUF models among files, without projectors of images: name without ending and part -> its files in order."""
    models: dict[str, list[str]] = {}
    for file in sorted(files):
        path = PurePosixPath(file)
        if path.suffix == ".gguf" and not path.name.startswith("mmproj"):
            match = SPLIT.fullmatch(path.name)
            stem = path.with_name(match[1] if match else path.stem)
            models.setdefault(stem.as_posix(), []).append(file)
    return models


def tags(models: Sequence[str] | dict[str, list[str]]) -> list[str]:
    """What each model is named by: the part of its name that no other has, such as Q4_K_M."""
    return sorted({PurePosixPath(stem).name.replace(".", "-").rpartition("-")[2] for stem in models})
