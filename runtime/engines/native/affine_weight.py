"""The affine weight of a folder's own node of the native operator, whose parts become one constant when the model is loaded."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ovround.tensors.native_layout import AFFINE, TILE_ROWS, Bytes


@dataclass(frozen=True, slots=True)
class AffineWeight:
    """Codes, scales `[tiles, B, bytes of a block]`, and minimums or one zero point; `shape` is `[N, K]`."""

    product: Any
    parts: tuple[Bytes, Bytes, Bytes]
    bits: int
    shape: tuple[int, int]

    @property
    def blocks(self) -> int:
        """Of a row."""
        return int(self.parts[1].shape[1])

    @property
    def groups(self) -> int:
        """Of a row."""
        return self.blocks * max(int(self.parts[1].shape[2]) // TILE_ROWS - 2, 1)

    @property
    def symmetric(self) -> bool:
        """Whether all groups have one zero point."""
        return self.parts[2].size == 1

    @property
    def group_key(self) -> tuple[object, ...]:
        """Equal for products that one node can compute."""
        source = self.product.input_value(0)
        port = source.get_node().get_friendly_name(), source.get_index()
        return *port, AFFINE[self.bits], self.shape[1], self.groups, self.blocks, self.symmetric

    def attributes(self) -> dict[str, Any]:
        """Those of the operator that describe the weight."""
        return {
            "weights": AFFINE[self.bits], "inputs": self.shape[1], "groups": self.groups, "blocks": self.blocks,
            "symmetric": self.symmetric,
        }  # fmt: skip


def affine_weight(node: Any) -> AffineWeight | None:
    """The weight of a node of the operator; None for a weight of another kind."""
    attributes = node.get_attributes()
    bits = next((bits for bits, name in AFFINE.items() if name == attributes["weights"]), None)
    if bits is None or attributes["groups"] or node.get_output_size() != 1:
        return None
    codes, scales, last = (node.input_value(index).get_node().data for index in (1, 2, 3))
    shape = int(node.get_output_partial_shape(0)[-1].get_length()), int(attributes["inputs"])
    return AffineWeight(node, (codes, scales, last), bits, shape)
