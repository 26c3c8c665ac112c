"""Downloads from the hub, by huggingface_hub: into its own cache, resumed, each file compared with its hash."""

from __future__ import annotations

import errno
import importlib.util
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path

from ovround.errors import CheckpointError, MissingExtraError, OutputError

_LOG_IN = "`hf auth login`, or HF_TOKEN, gives the hub your token"


def download(name: str, revision: str | None, wanted: Sequence[str], ignored: Sequence[str] = ()) -> Path:
    """The folder `.../snapshots/COMMIT` with the `wanted` files (patterns) of a repository; `revision` None: its main branch.

    Files that `ignored` fits are left out.

    Without a network it is what an earlier download left. Raises CheckpointError where the hub does not give it, and OutputError
    where the disk has no room for it, before anything is downloaded.
    """
    if importlib.util.find_spec("huggingface_hub") is None:
        raise MissingExtraError("huggingface_hub", "convert")
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    model = name if revision is None else f"{name}@{revision}"
    try:
        _check_space(model, name, revision, wanted, ignored)
        kept, left = list(wanted), list(ignored)
        return Path(snapshot_download(name, revision=revision, allow_patterns=kept, ignore_patterns=left))
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
        raise _refused(model, error) from error


def _check_space(model: str, name: str, revision: str | None, wanted: Sequence[str], ignored: Sequence[str]) -> None:
    from huggingface_hub import snapshot_download
    from huggingface_hub.constants import HF_HUB_CACHE
    from huggingface_hub.errors import DryRunError
    from huggingface_hub.utils.tqdm import are_progress_bars_disabled, disable_progress_bars, enable_progress_bars

    shown = not are_progress_bars_disabled()
    if shown:
        disable_progress_bars()
    try:
        kept, left = list(wanted), list(ignored)
        files = snapshot_download(name, revision=revision, allow_patterns=kept, ignore_patterns=left, dry_run=True)
    except DryRunError:
        return  # the download itself says why, or does with what is here
    finally:
        if shown:
            enable_progress_bars()
    needed = sum(file.file_size or 0 for file in files if file.will_download)
    folder = next(path for path in (Path(HF_HUB_CACHE), *Path(HF_HUB_CACHE).parents) if path.exists())
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise OutputError(
            f"`{model}` is a download of {needed / 1e6:.0f} MB; `{folder}` has {free / 1e6:.0f} MB free",
            hint="free some space, or set HF_HUB_CACHE to a folder on another disk",
        )


def _refused(model: str, error: Exception) -> CheckpointError | OutputError:
    """The error for what the hub's library raised, in one line and with a way out."""
    from huggingface_hub.errors import (
        GatedRepoError,
        HFValidationError,
        LocalEntryNotFoundError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    kinds = [type(one) for one in _chain(error)]
    start = f"`{model}` is no local folder, and the hub did not give it: "
    if any(isinstance(one, OSError) and one.errno == errno.ENOSPC for one in _chain(error)):
        return OutputError(
            f"the disk is full while downloading `{model}`; what has come is kept",
            hint="free some space and run again, or set HF_HUB_CACHE to a folder on another disk",
        )
    if GatedRepoError in kinds:
        name = model.partition("@")[0]
        return CheckpointError(
            f"{start}its owner must grant access first", hint=f"ask for it at https://huggingface.co/{name}; {_LOG_IN}"
        )
    if RevisionNotFoundError in kinds:
        name, _, revision = model.partition("@")
        return CheckpointError(f"{start}it has no revision `{revision}`", hint=f"leave it out: `{name}`")
    if RepositoryNotFoundError in kinds:
        return CheckpointError(
            f"{start}there is no model of that name, or it is private",
            hint=f"check the spelling; of a private one {_LOG_IN}",
        )
    if HFValidationError in kinds:
        return CheckpointError(f"`{model}` is no folder and no hub name", hint="a hub name is such as org/model")
    if LocalEntryNotFoundError in kinds:
        return CheckpointError(
            f"{start}it cannot be reached, and nothing of it was downloaded before",
            hint="check the network (and HF_HUB_OFFLINE, HF_ENDPOINT), or give a local folder",
        )
    text = str(error).strip()
    reason = text.splitlines()[0] if text else type(error).__name__
    return CheckpointError(f"{start}{reason}", hint="check the name and the network, or give a local folder")


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__
