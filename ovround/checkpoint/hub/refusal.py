"""Why the hub did not give something: the error for what its library raised, in one line and with a way out."""

from __future__ import annotations

import errno
from collections.abc import Iterator

from ovround.checkpoint.hub.name import HubName
from ovround.checkpoint.local_path import similar_path
from ovround.errors import CheckpointError, OutputError

_LOG_IN = "`hf auth login`, or HF_TOKEN, gives the hub your token"
_NO_TOKEN, _SERVER_ERROR = 401, 500


def library_errors() -> tuple[type[Exception], ...]:
    """What huggingface_hub raises. HTTPError is that of the HTTP library that it uses, of which there have been three."""
    from huggingface_hub.errors import HFValidationError, HTTPError  # type: ignore[attr-defined]  # imported there

    return (HTTPError, HFValidationError, OSError)


def is_unreachable(error: Exception) -> bool:
    """Whether an error says that there is no network, or that the hub is down: what was downloaded before may do."""
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    if isinstance(error, LocalEntryNotFoundError):
        return True
    if isinstance(error, HfHubHTTPError):
        return error.response.status_code >= _SERVER_ERROR
    return not isinstance(error, HFValidationError)


def refusal(name: HubName, error: Exception) -> CheckpointError | OutputError:
    """The error to raise in place of `error`."""
    from huggingface_hub.errors import (
        GatedRepoError,
        HfHubHTTPError,
        HFValidationError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    if any(isinstance(one, OSError) and one.errno == errno.ENOSPC for one in _chain(error)):
        return OutputError(
            f"the disk is full while downloading `{name}`; what has come is kept",
            hint="free some space and run again, or set HF_HUB_CACHE to a folder on another disk",
        )
    start = f"`{name}` is no local folder, and the hub did not give it: "
    kinds = [type(one) for one in _chain(error)]
    if GatedRepoError in kinds:
        return CheckpointError(
            f"{start}its owner must grant access first",
            hint=f"ask for it at https://huggingface.co/{name.repository}; {_LOG_IN}",
        )
    if RevisionNotFoundError in kinds:
        return CheckpointError(
            f"{start}it has no revision `{name.revision}`", hint=f"leave it out: `{name.repository}`"
        )
    if RepositoryNotFoundError in kinds:
        return CheckpointError(
            f"{start}there is no model of that name, or it is private",
            hint=similar_path(name.repository) or f"check the spelling; of a private one {_LOG_IN}",
        )
    if HFValidationError in kinds:
        return CheckpointError(f"`{name}` is no folder and no hub name", hint="a hub name is such as org/model")
    if isinstance(error, HfHubHTTPError):
        status = error.response.status_code
        if status == _NO_TOKEN:
            return CheckpointError(
                f"{start}it does not accept your token",
                hint="`hf auth login` stores another; a public model needs none: unset HF_TOKEN, `hf auth logout`",
            )
        return CheckpointError(f"{start}it answers with status {status}", hint="try again later")
    if is_unreachable(error):
        return unreachable(name)
    text = str(error).strip()
    reason = text.splitlines()[0] if text else type(error).__name__
    return CheckpointError(f"{start}{reason}", hint="check the name and the network, or give a local folder")


def unreachable(name: HubName) -> CheckpointError:
    """The error without a network, for a model of which nothing was downloaded before."""
    return CheckpointError(
        f"`{name}` is no local folder, and the hub did not give it: it cannot be reached, and nothing of it was downloaded before",
        hint=similar_path(name.repository)
        or "check the network (and HF_HUB_OFFLINE, HF_ENDPOINT), or give a local folder",
    )


def interrupted(name: HubName, error: Exception) -> CheckpointError | OutputError:
    """The error for a download that had begun."""
    from huggingface_hub.errors import HfHubHTTPError

    if isinstance(error, HfHubHTTPError) or any(
        isinstance(one, OSError) and one.errno == errno.ENOSPC for one in _chain(error)
    ):
        return refusal(name, error)
    text = str(error).strip()
    reason = text.splitlines()[0] if text else type(error).__name__
    return CheckpointError(
        f"the download of `{name}` broke off: {reason}", hint="run it again: it continues where it stopped"
    )


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__
