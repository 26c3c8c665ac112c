"""The protocol of a checkpoint format that is written, and what formats share."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from ovround.errors import UsageError
from ovround.models.decoder import EMBEDDING, HEAD
from ovround.tensors.qtensor import QTensor
from ovround.tensors.scheme import QuantScheme, WeightScheme

Array = NDArray[Any]
Plan = Mapping[str, WeightScheme | None]
Shapes = Mapping[str, tuple[int, ...]]


class Format(Protocol):
    """A format, opened for one plan; opening it raises UsageError for what it cannot hold."""

    def stored(self, tensor: QTensor) -> QTensor:
        """`tensor` in a container that the format has, exactly (`ovround.tensors.reexpression`)."""
        ...

    def encode(self, module: str, tensor: QTensor) -> Mapping[str, Array]:
        """The tensors of a weight that `stored` gave, by suffix.

        Raises UsageError for an activation order that the format cannot hold.
        """
        ...

    def rest(self) -> Iterable[tuple[str, Array]]:
        """Tensors that depend on all weights, by name; asked for after the last weight."""
        ...

    def settings(self, schemes: Mapping[str, QuantScheme], floats: Iterable[str]) -> dict[str, Any]:
        """`quantization_config`; `schemes` are those of quantised modules as stored, `floats` the linear modules in float."""
        ...


def scheme_of(tensor: QTensor) -> QuantScheme:
    """The scheme of a weight; group size -1 where one scale serves a whole row."""
    whole = tensor.group_size == tensor.shape[1]
    return QuantScheme(tensor.bits, -1 if whole else tensor.group_size, tensor.symmetric)


def most_common(schemes: Mapping[str, QuantScheme]) -> QuantScheme:
    """The scheme that most modules have, the first of several."""
    return Counter(schemes.values()).most_common(1)[0][0]


def quantised(plan: Plan) -> dict[str, QuantScheme]:
    """The modules of a plan that have an integer scheme."""
    return {module: scheme for module, scheme in plan.items() if isinstance(scheme, QuantScheme)}


def refuse_modules(format_name: str, plan: Plan, *modules: str) -> None:
    """Raise UsageError when one of `modules` is quantised: what loads the format expects it in float."""
    flags = {EMBEDDING: "embedding-bits", HEAD: "lm-head-bits"}
    for module in modules:
        scheme = plan.get(module)
        if isinstance(scheme, QuantScheme):
            raise UsageError(
                f"{format_name} holds no quantised `{module}`, which has {scheme.bits} bits",
                hint=f"--{flags[module]} 16, or a format that holds it: olive",
            )


def refuse_order(format_name: str, module: str, tensor: QTensor) -> None:
    """Raise UsageError for a weight with activation order, for which the format has no tensor."""
    if tensor.order is not None:
        raise UsageError(
            f"`{module}` has activation order (g_idx), for which {format_name} has no place",
            hint="openvino, onnx, gptq and compressed-tensors have one",
        )


def check_words(format_name: str, plan: Plan, shapes: Shapes, *float_modules: str) -> None:
    """Raise UsageError for a quantised weight whose sizes 32 does not divide: loaders read whole words of 32 bits only.

    And for one of `float_modules` that is quantised, as `refuse_modules` does.
    """
    refuse_modules(format_name, plan, *float_modules)
    for module in quantised(plan):
        shape = shapes[f"{module}.weight"]
        if any(size % 32 for size in shape):
            raise UsageError(
                f"`{module}` is {list(shape)}; {format_name} needs sizes that 32 divides",
                hint=f"--layer '{module.rpartition('.')[2]}=bits:16' leaves it in float; compressed-tensors and olive take it",
            )


def in_input_order(tensor: QTensor) -> tuple[NDArray[np.uint8], NDArray[np.int32]]:
    """Codes `[N, K]` with the columns in the order of the inputs, and the group of each input, `[K]`."""
    groups = (np.arange(tensor.shape[1]) // tensor.group_size).astype(np.int32)
    if tensor.order is None:
        return tensor.codes, groups
    back = np.argsort(tensor.order)
    return np.ascontiguousarray(tensor.codes[:, back]), groups[back]
