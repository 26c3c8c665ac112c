"""The folder of a model that a user names: a local path, `demo` for the model that ships with ovround, or a hub name."""

from __future__ import annotations

from pathlib import Path

from ovround.artifact.manifest import MANIFEST
from ovround.checkpoint.gguf.hub_file import parts_of_tag
from ovround.checkpoint.hub import HubName, download, earlier_download, list_repository
from ovround.checkpoint.hub.choice import choose_files
from ovround.checkpoint.local_path import local_model
from ovround.errors import CheckpointError
from ovround.progress import OnProgress, silent

DEMO = "demo"
DEMO_FOLDER = Path(__file__).resolve().parent.parent / "demo_model"


def locate(model: str, on_progress: OnProgress = silent) -> Path:
    """The folder of `model`, or a GGUF file; a hub name is downloaded to the hub's own cache.

    Hub names are `org/name`, `org/name@revision`, and of a GGUF file `org/name:Q4_K_M`, with `hf.co/` before them or not.
    Raises CheckpointError when it is neither, or when the download fails.
    """
    found = local_path(model)
    return fetch(hub_name(model), on_progress) if found is None else found


def local_path(model: str) -> Path | None:
    """The folder or GGUF file that `model` names without the hub; None where it can only be a hub name."""
    path = Path(model).expanduser()
    found = local_model(path) if path.exists() else None
    if found is None and model == DEMO:
        return DEMO_FOLDER
    return found


def hub_name(model: str) -> HubName:
    """The hub name that `model` is; raises CheckpointError where it is none."""
    name, path = HubName.parse(model), Path(model).expanduser()
    if path.exists() or name is None:
        raise CheckpointError(
            f"`{model}` is no {'file of a model' if path.is_file() else 'folder and no hub name'}",
            hint="give a model folder, a GGUF file, a hub name such as org/model, or `demo`",
        )
    return name


def fetch(name: HubName, on_progress: OnProgress = silent, *, recheck: bool = False) -> Path:
    """The folder or GGUF file of a hub name, downloaded where it is not in the hub's cache; without a network what is there.

    `recheck` compares what is there with its hashes. Raises CheckpointError and OutputError as `download` does.
    """
    repository = list_repository(name)
    if repository is None:
        folder = earlier_download(name)
        paths = [path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()]
    else:
        folder = download(repository, choose_files(name, repository.paths), on_progress, recheck=recheck)
        paths = repository.paths
    return folder if name.tag is None else folder / parts_of_tag(paths, name.repository, name.tag)[0]


def is_ir(folder: Path) -> bool:
    """Whether `folder` is an OpenVINO IR that somebody else exported."""
    return (folder / "openvino_model.xml").is_file() and not (folder / MANIFEST).is_file()
