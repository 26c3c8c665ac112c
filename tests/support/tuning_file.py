"""A tuning file for the command line."""

from __future__ import annotations

import json
from pathlib import Path


def tuning_file(folder: Path, **values: object) -> Path:
    """A TOML file in `folder` with these keys."""
    path = folder / "tuning.toml"
    path.write_text("".join(f"{key} = {json.dumps(value)}\n" for key, value in values.items()), encoding="utf-8")
    return path
