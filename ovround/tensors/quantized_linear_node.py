"""The node `QuantizedLinear` for OpenVINO's Python interface: it states shapes, and computes nothing.

Exporters build graphs with it, and the runtime reads graphs with it where the native library, which computes, is missing.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import openvino as ov

from ovround.tensors.native_layout import OPERATOR, OPSET


class QuantizedLinear(ov.Op):  # type: ignore[misc]  # OpenVINO states no types
    """y `[..., outputs]` of x `[..., inputs]` and three parts of a weight; `ovround.tensors.native_layout` describes them."""

    class_type_info = ov.DiscreteTypeInfo(OPERATOR, OPSET)

    def __init__(
        self, sources: Sequence[Any] | None = None, *, weights: str = "", outputs: int = 0, inputs: int = 0, exact: bool = False
    ) -> None:  # fmt: skip
        super().__init__(self)
        # read before they are set, when OpenVINO makes a node to fill in: hence set before the inputs
        self.settings: dict[str, Any] = {"weights": weights, "outputs": outputs, "inputs": inputs, "exact": exact}
        if sources is not None:
            self.set_arguments(list(sources))
            self.constructor_validate_and_infer_types()

    def get_type_info(self) -> Any:
        return QuantizedLinear.class_type_info

    def validate_and_infer_types(self) -> None:
        shape = list(self.get_input_partial_shape(0))
        self.set_output_type(
            0, self.get_input_element_type(0), ov.PartialShape([*shape[:-1], self.settings["outputs"]])
        )

    def clone_with_new_inputs(self, sources: Sequence[Any]) -> QuantizedLinear:
        return QuantizedLinear(sources, **self.settings)

    def visit_attributes(self, visitor: Any) -> bool:
        visitor.on_attributes(self.settings)
        return True
