"""Verbs of single parts: what `Ops.call` computes, by name and backend.

A verb that only some mixers need is no method of `Ops`. The part gives a frozen dataclass, the `Verb`, and each backend that
can run it has a file `verb_NAME.py` beside its `Ops`, with a function `compute(ops, verb, inputs, layer)`:

    torch      ovround/models/verb_NAME.py         ops is a TorchOps, inputs are tensors
    openvino   exporters/openvino/verb_NAME.py     ops is an OpenVINOOps, inputs are nodes
    onnx       exporters/onnx/verb_NAME.py         ops is an OnnxOps, inputs are names
    hpu        runtime/hpu/verb_NAME.py            ops is a StaticOps, inputs are tensors

A verb reads its layer's state by `ops.past(layer, name)` and leaves the new one by `ops.keep(layer, name, value)`.
"""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Callable
from typing import Any, Protocol

from ovround.errors import ArchitectureError

_PACKAGES = {
    "torch": "ovround.models",
    "openvino": "ovround.exporters.openvino",
    "onnx": "ovround.exporters.onnx",
    "hpu": "ovround.runtime.hpu",
}

Compute = Callable[..., Any]
"""`compute(ops, verb, inputs, layer)`: the output, of the backend's own kind of value."""

registered: dict[tuple[str, str], Compute] = {}
"""Implementations from outside of ovround, by backend and name of the verb; they take precedence over files."""

_found: dict[tuple[str, str], Compute] = {}
"""Those of files that are imported: a compiled graph looks a verb up here, since nothing can be imported while it is traced."""


class Verb(Protocol):
    """A frozen dataclass with what the verb computes besides its inputs, sizes for instance."""

    @property
    def name(self) -> str:
        """As in the names of the files that implement it."""
        ...


def implementation(backend: str, name: str) -> Compute:
    """How `backend` computes the verb `name`; raises ArchitectureError where it cannot."""
    for known in (registered, _found):
        if (backend, name) in known:
            return known[backend, name]
    module = f"{_PACKAGES[backend]}.verb_{name}"
    try:
        _found[backend, name] = importlib.import_module(module).compute
    except ModuleNotFoundError as error:
        if error.name != module:
            raise
        others = [other for other in _PACKAGES if other != backend and _has(other, name)]
        raise ArchitectureError(
            f"the model's `{name}` is not built for {backend}",
            hint=f"it is for {', '.join(others)}" if others else None,
        ) from error
    return _found[backend, name]


def _has(backend: str, name: str) -> bool:
    return (backend, name) in registered or importlib.util.find_spec(f"{_PACKAGES[backend]}.verb_{name}") is not None
