"""What a repository of the hub holds: one request gives its commit, and each file's size and hash."""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass, replace

from ovround.checkpoint.gguf.hub_file import gguf_models
from ovround.checkpoint.hub.name import HubName
from ovround.checkpoint.hub.refusal import is_unreachable, library_errors, refusal
from ovround.errors import MissingExtraError


@dataclass(frozen=True, slots=True)
class HubFile:
    """A file: its path, its size, and its hash, by which the hub's own cache names it.

    The hash is the sha256 of a large file, and that of git's blob, a sha1, of any other.
    """

    path: str
    size_bytes: int
    digest: str


@dataclass(frozen=True, slots=True)
class Repository:
    """The files of a repository at one commit; `name` has the tag of its GGUF file where it is the only model there."""

    name: HubName
    commit: str
    files: tuple[HubFile, ...]

    @property
    def paths(self) -> list[str]:
        return [file.path for file in self.files]

    def select(self, paths: list[str]) -> list[HubFile]:
        """The files of these paths, in the order of the repository."""
        return [file for file in self.files if file.path in set(paths)]


def list_repository(name: HubName) -> Repository | None:
    """The files of a repository, without downloading any; None where the hub cannot be reached.

    Raises CheckpointError for a repository or revision that is not there or not given.
    """
    if importlib.util.find_spec("huggingface_hub") is None:
        raise MissingExtraError("huggingface_hub", "convert")
    from huggingface_hub import HfApi

    try:
        info = HfApi().model_info(name.repository, revision=name.revision, files_metadata=True)
    except library_errors() as error:
        if is_unreachable(error):
            return None
        raise refusal(name, error) from error
    files = tuple(
        HubFile(entry.rfilename, entry.size or 0, entry.lfs.sha256 if entry.lfs else str(entry.blob_id))
        for entry in info.siblings or ()
    )
    if name.tag is None:
        name = replace(name, tag=_only_gguf([file.path for file in files]))
    return Repository(name, str(info.sha), files)


def _only_gguf(paths: list[str]) -> str | None:
    """The one GGUF model of a repository without other weights."""
    models = list(gguf_models(paths))
    return (
        models[0] if len(models) == 1 and not any(path.endswith((".safetensors", ".bin")) for path in paths) else None
    )
