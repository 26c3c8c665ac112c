"""A program of tools/ as a module, under a name of its own: `tests/reference` is a package of the name of `tools/reference.py`."""

from __future__ import annotations

import importlib.util
import sys
from typing import Any

from cpp_build import ROOT


def tool_module(name: str) -> Any:
    """The program of that name, loaded once."""
    own = f"tools_{name}"
    if own not in sys.modules:
        spec = importlib.util.spec_from_file_location(own, ROOT / "tools" / f"{name}.py")
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        sys.modules[own] = module
        spec.loader.exec_module(module)
    return sys.modules[own]
