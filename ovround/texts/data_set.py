"""Data sets of the hub by name: which of a repository's files are texts to read, and their download, one file after the other.

`org/name`, `org/name:config` and `@revision` after either. The files of a configuration are those that the repository's card
lists (`configs:` in README.md), or else the folder of that name. Of several splits one is read: that of training to tune on,
that of testing to score. No code of a repository runs.
"""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from ovround.errors import CalibrationError, MissingExtraError
from ovround.texts.files import SUFFIXES, suffix_of

_NAME = re.compile(r"[\w.-]+/[\w.-]+(:[\w.+-]+)?(@[\w./-]+)?")
_SPLITS = {"train": "train", "test": "test|testing|eval|evaluation", "validation": "valid|validation|val|dev"}
TO_TUNE, TO_SCORE = ("train",), ("test", "validation", "train")
_CARD = "README.md"


def is_data_set(source: Path) -> bool:
    """Whether `source` is no file here, and could be the name of a data set of the hub."""
    return (
        not source.exists()
        and suffix_of(str(source)) not in SUFFIXES
        and _NAME.fullmatch(source.as_posix()) is not None
    )


def data_set_files(source: str, splits: Sequence[str]) -> Iterator[Path]:
    """The data files of the first of `splits` that a data set has, each downloaded to the hub's own cache when it is asked for.

    Raises CalibrationError for a name that the hub does not have, a configuration that it does not have, and a repository
    without files that can be read.
    """
    name, _, revision = source.partition("@")
    name, _, config = name.partition(":")
    try:
        from huggingface_hub import HfApi, hf_hub_download
        from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError
    except ModuleNotFoundError as error:
        raise MissingExtraError(error.name or "huggingface_hub", "convert") from error
    errors = (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError)

    def fetch(file: str) -> Path:
        return Path(hf_hub_download(name, file, repo_type="dataset", revision=revision or None))

    try:
        there = HfApi().list_repo_files(name, repo_type="dataset", revision=revision or None)
        configs = _configs(fetch(_CARD)) if _CARD in there else []
    except errors as error:
        raise _refused(source, error) from error
    readable = [file for file in there if suffix_of(file) in SUFFIXES]
    for file in _chosen(source, config, splits, readable, configs):
        try:
            path = fetch(file)
        except errors as error:
            raise _refused(source, error) from error
        yield path


def _configs(card: Path) -> list[Mapping[str, Any]]:
    """The configurations that a card states in its YAML header; none where it has no header that can be read."""
    from huggingface_hub import metadata_load
    from yaml import YAMLError

    try:
        header = metadata_load(card)
    except (ValueError, YAMLError):
        return []
    stated = header.get("configs") if isinstance(header, dict) else None
    return [entry for entry in stated if isinstance(entry, dict)] if isinstance(stated, list) else []


def _chosen(
    source: str, config: str, splits: Sequence[str], files: Sequence[str], configs: Sequence[Mapping[str, Any]]
) -> list[str]:
    """The files to read of all that are there."""
    data = [file for file in files if file != _CARD and not file.startswith(".") and suffix_of(file) != ".md"]
    names = [str(entry.get("config_name", "default")) for entry in configs]
    if configs:
        entry = _configuration(source, config, configs, names)
        stated = entry.get("data_files")
        found = _of_split(stated, splits, data) if stated else _in_folder(config, splits, data)
    else:
        found = _in_folder(config, splits, data)
    if not found:
        folders = sorted({file.partition("/")[0] for file in data if "/" in file})
        known = names or folders
        raise CalibrationError(
            f"data set `{source}` has no files to read"
            + (f" of configuration `{config}`" if config else f" ({', '.join(files[:5])})" if files else ""),
            hint=f"its configurations: {', '.join(known)}"
            if known
            else f"formats that are read: {', '.join(SUFFIXES)}",
        )
    return found


def _configuration(
    source: str, config: str, configs: Sequence[Mapping[str, Any]], names: Sequence[str]
) -> Mapping[str, Any]:
    if config:
        if config not in names:
            raise CalibrationError(
                f"data set `{source}` has no configuration `{config}`", hint=f"it has {', '.join(names):.300}"
            )
        return configs[names.index(config)]
    default = next((entry for entry in configs if entry.get("default")), None)
    if default is None and "default" in names:
        default = configs[names.index("default")]
    if default is None and len(configs) > 1:
        raise CalibrationError(
            f"data set `{source}` has several configurations, and none by default",
            hint=f"name one: {source.partition('@')[0]}:{names[0]}; it has {', '.join(names):.300}",
        )
    return default or configs[0]


def _of_split(stated: Any, splits: Sequence[str], data: Sequence[str]) -> list[str]:
    """Those of `data` that `data_files` of a card names for the first of `splits` that it has, or for its first split."""
    by_split: dict[str, list[str]] = {}
    for entry in stated if isinstance(stated, list) else [stated]:
        split = str(entry.get("split", "train")) if isinstance(entry, dict) else "train"
        paths = entry.get("path") if isinstance(entry, dict) else entry
        by_split.setdefault(split, []).extend(str(path) for path in (paths if isinstance(paths, list) else [paths]))
    patterns = next((by_split[split] for split in splits if split in by_split), next(iter(by_split.values())))
    return [file for file in data if any(fnmatch.fnmatch(file, pattern) for pattern in patterns)]


def _in_folder(config: str, splits: Sequence[str], data: Sequence[str]) -> list[str]:
    """Those of `data` in the folder of a configuration, of the first of `splits` that names tell, or all."""
    inside = [file for file in data if not config or file.startswith((f"{config}/", f"data/{config}/"))]
    by_split = {
        split: [file for file in inside if re.search(rf"(^|[/._-])({words})([/._-]|\d|$)", file, re.IGNORECASE)]
        for split, words in _SPLITS.items()
    }
    found = next((by_split[split] for split in splits if by_split[split]), [])
    named = {file for files in by_split.values() for file in files}
    return found or [file for file in inside if file not in named] or inside


def _refused(source: str, error: Exception) -> CalibrationError:
    reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
    return CalibrationError(
        f"`{source}` is no file here, and the hub gave no data set of that name: {reason}",
        hint="check the name and the network, or give a file",
    )
