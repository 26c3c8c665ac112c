"""Which files of a repository a conversion reads: one set of weights, and what lies beside it.

The rest stays where it is: the same weights for other libraries (`pytorch_model.bin` beside safetensors, `onnx/`, `original/`), GGUF
files that nobody asked for, images, training states.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from fnmatch import fnmatch
from pathlib import PurePosixPath

from ovround.checkpoint.files.small_files import TEMPLATES
from ovround.checkpoint.files.weight_files import ADAPTER
from ovround.checkpoint.gguf.hub_file import gguf_models, parts_of_tag, tags
from ovround.checkpoint.hub.name import HubName
from ovround.errors import CheckpointError

SMALL = (
    "*.json", "*.jinja", "tokenizer.model", "tiktoken.model", "spiece.model", "*.tiktoken", "merges.txt", "vocab.txt",
    "LICENSE*", "NOTICE*", "README.md", f"{TEMPLATES}/*.jinja",
)  # fmt: skip
WEIGHTS = ("*.safetensors",)
PICKLED = ("pytorch_model*.bin", "*g.bin")  # transformers' names, and AutoGPTQ's, which end in the group size
_TWICE = "consolidated*"  # the same weights in another layout
_VARIANT = re.compile(r"(?P<stem>.+)\.(?:fp16|bf16|fp32|non_ema)(?P<rest>(?:-\d{5}-of-\d{5})?\.safetensors)")
_BESIDE_GGUF = ("LICENSE*", "NOTICE*", "README.md")


def choose_files(name: HubName, paths: Sequence[str]) -> list[str]:
    """The paths that a conversion of `name` reads, of all `paths` of its repository, sorted.

    Raises CheckpointError for a repository of GGUF files where none is named, for a quantisation that it does not have, and
    for one without weights.
    """
    if name.tag is not None:
        chosen = parts_of_tag(paths, name.repository, name.tag)
        return sorted([*chosen, *_matching(paths, _BESIDE_GGUF)])
    small = _matching(paths, SMALL)
    safetensors = [path for path in _matching(paths, WEIGHTS) if not _is_twice(path, paths)]
    if any(path != ADAPTER for path in safetensors):
        return sorted([*small, *safetensors])
    pickled = _matching(paths, PICKLED)
    models = gguf_models(paths)
    if models and not pickled and not safetensors:
        named = tags(models)
        raise CheckpointError(
            f"`{name.repository}` has GGUF files alone: {', '.join(named)}",
            hint=f"name one: {name.repository}:{named[0]}",
        )
    if not pickled and not safetensors:
        others = sorted({PurePosixPath(path).suffix for path in paths if PurePosixPath(path).suffix}) or ["none"]
        raise CheckpointError(
            f"`{name}` has no weights that can be read: neither *.safetensors nor pytorch_model*.bin nor *.gguf; "
            f"its files are {', '.join(others[:8])}",
            hint="another repository of the same model, often one of its name without a suffix",
        )
    return sorted([*small, *safetensors, *pickled])


def _matching(paths: Sequence[str], patterns: Sequence[str]) -> list[str]:
    """Paths that match one of `patterns`, folder by folder: `*` is no slash."""
    return [
        path for path in paths
        if any(pattern.count("/") == path.count("/") and fnmatch(path, pattern) for pattern in patterns)
    ]  # fmt: skip


def _is_twice(path: str, paths: Sequence[str]) -> bool:
    """Whether the weights of a file are in another one too."""
    if fnmatch(path, _TWICE):
        return any(
            fnmatch(other, "*.safetensors") and not fnmatch(other, _TWICE) for other in _matching(paths, WEIGHTS)
        )
    variant = _VARIANT.fullmatch(path)
    return variant is not None and any(
        other.startswith(variant["stem"]) and _VARIANT.fullmatch(other) is None for other in _matching(paths, WEIGHTS)
    )
