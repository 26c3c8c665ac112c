"""The folder of a model that a user names: a path, `demo` for the model that ships with ovround, ollama's name, a hub name."""

from __future__ import annotations

from pathlib import Path

from ovround.artifact.manifest import MANIFEST
from ovround.checkpoint.gguf.hub_file import parts_of_tag
from ovround.checkpoint.hub import HubName, download, earlier_download, list_repository
from ovround.checkpoint.hub.choice import choose_files
from ovround.checkpoint.hub.name import hub_page
from ovround.checkpoint.local_path import is_path, local_model, no_model, no_path, similar_path
from ovround.checkpoint.ollama import is_ollama_name, ollama_file
from ovround.errors import CheckpointError
from ovround.progress import OnProgress, silent

DEMO = "demo"
DEMO_FOLDER = Path(__file__).resolve().parent.parent / "demo_model"


def locate(model: str, on_progress: OnProgress = silent) -> Path:
    """The folder of `model`, or a GGUF file; a hub name is downloaded to the hub's own cache.

    Hub names are `org/name`, `org/name@revision`, and of a GGUF file `org/name:Q4_K_M`, or the addresses of their pages.
    Raises CheckpointError when it is neither, or when the download fails.
    """
    found = local_path(model)
    return fetch(hub_name(model), on_progress) if found is None else found


def local_path(model: str) -> Path | None:
    """The folder or GGUF file that `model` names without the hub; None where it can only be a hub name."""
    path = Path(model).expanduser()
    found = local_model(path) if path.exists() else None
    if found is not None or path.exists():
        return found
    return DEMO_FOLDER if model == DEMO else ollama_file(model)


def hub_name(model: str) -> HubName:
    """The hub name that `model` is; raises CheckpointError where it is none."""
    path = Path(model).expanduser()
    if path.exists():
        raise no_model(path)
    name = None if is_path(model) and hub_page(model) is None else HubName.parse(model)
    if name is not None:
        return name
    if "://" in model or hub_page(model) is not None:
        raise CheckpointError(
            f"`{model}` is not the address of a model's page on the hub",
            hint="such a page is https://huggingface.co/org/model; of anything else, download it and give the file or folder",
        )
    if is_path(model):
        raise no_path(model)
    if is_ollama_name(model):
        raise CheckpointError(
            f"`{model}` is a name of ollama's, which is not in its store here",
            hint=f"`ollama pull {model}` puts it there; or give a hub name, which has an organisation: org/model",
        )
    raise CheckpointError(
        f"`{model}` is no folder and no hub name",
        hint=similar_path(model) or "give a model folder, a GGUF file, a hub name such as org/model, or `demo`",
    )


def plain_name(model: str) -> str:
    """One text for all ways to name the same hub model, the path of a model of ollama's, and any other text as it is."""
    if Path(model).expanduser().exists() or model == DEMO:
        return model
    ollama = ollama_file(model)
    if ollama is not None:
        return str(ollama)
    name = None if is_path(model) and hub_page(model) is None else HubName.parse(model)
    return model if name is None else name.text


def fetch(name: HubName, on_progress: OnProgress = silent, *, recheck: bool = False) -> Path:
    """The folder or GGUF file of a hub name, downloaded where it is not in the hub's cache; without a network what is there.

    `recheck` compares what is there with its hashes. Raises CheckpointError and OutputError as `download` does.
    """
    repository = list_repository(name)
    if repository is None:
        folder = earlier_download(name)
        paths = [path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()]
    else:
        name, paths = repository.name, repository.paths
        folder = download(repository, choose_files(name, paths), on_progress, recheck=recheck)
    return folder if name.tag is None else folder / parts_of_tag(paths, name.repository, name.tag)[0]


def is_ir(folder: Path) -> bool:
    """Whether `folder` is an OpenVINO IR that somebody else exported."""
    return (folder / "openvino_model.xml").is_file() and not (folder / MANIFEST).is_file()
