"""Verbs of single parts: what `Ops.call` computes, by name and target.

A verb that only some mixers need is no method of `Ops`. The part gives a frozen dataclass, the `Verb`, and each target that
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
"""`compute(ops, verb, inputs, layer)`: the output, of the target's own kind of value."""

registered: dict[tuple[str, str], Compute] = {}
"""Implementations from outside of ovround, by target and name of the verb; they come before files."""


class Verb(Protocol):
    """A frozen dataclass with what the verb computes besides its inputs, sizes for instance."""

    @property
    def name(self) -> str:
        """As in the names of the files that implement it."""
        ...


def implementation(target: str, name: str) -> Compute:
    """How `target` computes the verb `name`; raises ArchitectureError where it cannot."""
    if (target, name) in registered:
        return registered[target, name]
    module = f"{_PACKAGES[target]}.verb_{name}"
    try:
        compute: Compute = importlib.import_module(module).compute
    except ModuleNotFoundError as error:
        if error.name != module:
            raise
        others = [other for other in _PACKAGES if other != target and _has(other, name)]
        raise ArchitectureError(
            f"the model's `{name}` is not built for {target}",
            hint=f"it is for {', '.join(others)}" if others else None,
        ) from error
    return compute


def _has(target: str, name: str) -> bool:
    return (target, name) in registered or importlib.util.find_spec(f"{_PACKAGES[target]}.verb_{name}") is not None
