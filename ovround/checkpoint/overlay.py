"""A folder of a model's small files in which an adapter's own tokenizer, or a changed configuration, stands in for the base's."""

from __future__ import annotations

import json
import shutil
import tempfile
import weakref
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from ovround.checkpoint.files.small_files import TEMPLATE_FILES, TEMPLATES, TOKENIZER_FILES


class Overlay:
    """A temporary folder, `path`, that lasts as long as this object."""

    def __init__(self, base: Path, over: Iterable[Path], config: Mapping[str, Any] | None = None) -> None:
        """Copy the small files of `base`, then the tokenizers of the folders `over`; `config` stands in for config.json."""
        self.path = Path(tempfile.mkdtemp(prefix="ovround-"))
        self._end = weakref.finalize(self, shutil.rmtree, self.path, ignore_errors=True)
        small = (file for file in base.iterdir() if file.is_file() and not file.name.endswith(".index.json"))
        for file in small:
            if file.suffix in (".json", ".jinja", ".txt", ".model", ".md") or not file.suffix:
                shutil.copyfile(file, self.path / file.name)
        if (base / TEMPLATES).is_dir():
            shutil.copytree(base / TEMPLATES, self.path / TEMPLATES)
        for folder in over:
            self._put(folder)
        if config is not None:
            (self.path / "config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")

    def _put(self, folder: Path) -> None:
        """The tokenizer of `folder` in place of the one that is here; a chat template alone is added to it."""
        names = (*TOKENIZER_FILES, *TEMPLATE_FILES) if has_tokenizer(folder) else TEMPLATE_FILES
        for name in names:
            (self.path / name).unlink(missing_ok=True)
            if (folder / name).is_file():
                shutil.copyfile(folder / name, self.path / name)
        if (folder / TEMPLATES).is_dir():
            shutil.copytree(folder / TEMPLATES, self.path / TEMPLATES, dirs_exist_ok=True)


def has_tokenizer(folder: Path) -> bool:
    """Whether a tokenizer can be read from `folder` alone."""
    return any((folder / name).is_file() for name in ("tokenizer.json", "tokenizer.model", "vocab.json"))


def has_template(folder: Path) -> bool:
    """Whether `folder` has a chat template in a file of its own."""
    return any((folder / name).is_file() for name in TEMPLATE_FILES)
