"""Repacking of an ordinary OpenVINO model's weights for the native operator, when the model is loaded.

If the native library is installed, the operator computes products with weights of 2, 4 and 8 bits. The constants of the
decoding chain (`ovround.exporters.openvino.compressed` states it; NNCF writes the same) become its bytes, with the same integers
and scales. Products of one input become one node with several outputs, and so do a folder's own nodes of the operator. The
folder does not change, so that any engine reads it.
"""

from __future__ import annotations

import os
from collections import defaultdict
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from openvino import opset13 as opset
from openvino.utils.node_factory import NodeFactory

from ovround.runtime.engines.native.affine_weight import AffineWeight, affine_weight
from ovround.runtime.engines.native.openvino_versions import open_operator
from ovround.runtime.engines.native.packing import LINE, Pack, allocate, packer
from ovround.tensors import native_layout as layout
from ovround.tensors.native_layout import INTEGERS, OPERATOR, RUN, Bytes

_BITS = {"u2": 2, "i4": 4, "u4": 4, "i8": 8, "u8": 8}
_MAX_WEIGHTS = 8  # of one node


@dataclass(frozen=True, slots=True)
class Weight:
    """The constants of a product's weight `[N, K]`: codes, scales `[N, G]`, zero points `[N, G]` or one."""

    product: Any
    codes: Any
    bits: int
    signed: bool | None  # None: already packed
    shape: tuple[int, int]
    scales: NDArray[np.float16]
    zero_points: NDArray[np.uint8]

    @property
    def group_key(self) -> tuple[object, ...]:
        """Equal for products that one node can compute: input, bits, input size, groups, zero point."""
        source = self.product.input_value(0)
        port = source.get_node().get_friendly_name(), source.get_index()
        return *port, self.bits, self.shape[1], self.scales.shape[1], self.symmetric

    @property
    def symmetric(self) -> bool:
        """Whether all groups have one zero point."""
        return self.zero_points.ndim == 1

    def attributes(self) -> dict[str, Any]:
        """Those of the operator that describe the weight."""
        return {
            "weights": INTEGERS[self.bits], "inputs": self.shape[1], "groups": self.scales.shape[1],
            "symmetric": self.symmetric,
        }  # fmt: skip


AnyWeight = Weight | AffineWeight


def repack(model: Any, library: Path, *, exact: bool) -> int:
    """Replace the model's products of quantised weights by the operator in `library`; returns their number.

    Raises RuntimeError or OSError, before anything is replaced, if the library cannot be loaded.
    """
    pack = packer(library)
    open_operator(library)
    factory = NodeFactory()
    factory.add_extension(str(library))
    groups: dict[tuple[object, ...], list[AnyWeight]] = defaultdict(list)
    for node in model.get_ordered_ops():
        weight = (_packed(node) or affine_weight(node)) if node.get_type_name() == OPERATOR else _weight(node)
        if weight is not None:
            groups[weight.group_key].append(weight)
    fused = [
        weights[start : start + _MAX_WEIGHTS]
        for weights in groups.values()
        for start in range(0, len(weights), _MAX_WEIGHTS)
    ]
    if not fused:
        return 0
    gates = [_gate(weights) for weights in fused]
    buffers = allocate([sum(map(_size, weights)) for weights in fused])
    with ThreadPoolExecutor(len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else None) as pool:
        list(pool.map(lambda weights, buffer: _fill(weights, buffer, pack), fused, buffers))
    for weights, buffer, gate in zip(fused, buffers, gates, strict=True):
        _replace(factory, weights, buffer, gate, exact=exact)
    model.validate_nodes_and_infer_types()
    return sum(map(len, fused))


def _replace(factory: Any, weights: list[AnyWeight], buffer: Bytes, gate: Any, *, exact: bool) -> None:
    """Put a node of the operator in place of the products, or of `gate`, which multiplies the two products."""
    first = weights[0]
    outputs = [weight.shape[0] for weight in weights]
    attributes = {**first.attributes(), "outputs": outputs, "gated": gate is not None, "exact": exact}
    sources = [first.product.input_value(0), opset.constant(buffer, shared_memory=True)]
    node = factory.create(OPERATOR, sources, attributes)
    node.set_friendly_name(first.product.get_friendly_name())
    for index, replaced in enumerate([weight.product for weight in weights] if gate is None else [gate]):
        new, old = node.output(index), replaced.output(0)
        new.set_names(old.get_names())
        for consumer in old.get_target_inputs():
            consumer.replace_source_output(new)


def _gate(weights: list[AnyWeight]) -> Any:
    """The Multiply of silu(first product) and second product, and `weights` in this order; None for other consumers."""
    if len(weights) != 2 or weights[0].shape != weights[1].shape:
        return None
    followers = [_only_consumer(weight.product) for weight in weights]
    if followers[0] is not None and followers[0].get_type_name() == "Multiply":
        weights.reverse()
        followers.reverse()
    swish, product = followers
    if swish is None or product is None or swish.get_type_name() != "Swish" or product.get_type_name() != "Multiply":
        return None
    gated = _only_consumer(swish)
    same = gated is not None and gated.get_friendly_name() == product.get_friendly_name()
    return product if same and _is_plain(swish) else None


def _is_plain(swish: Any) -> bool:
    """Whether the node is x * sigmoid(x), without a factor in the sigmoid."""
    factor = _constant(swish.input_value(1).get_node()) if swish.get_input_size() == 2 else None
    return swish.get_input_size() == 1 or (factor is not None and bool((factor.data == 1).all()))


def _only_consumer(node: Any) -> Any:
    consumers = list(node.output(0).get_target_inputs())
    return consumers[0].get_node() if len(consumers) == 1 else None


def _sizes(weight: AnyWeight) -> list[int]:
    """Bytes of codes, scales, and zero points or minimums, each rounded up to cache lines."""
    if isinstance(weight, AffineWeight):
        return [-(-part.nbytes // LINE) * LINE for part in weight.parts]
    *sizes, points = layout.integer_bytes(weight.bits, *weight.shape, weight.scales.shape[1])
    return [-(-size // LINE) * LINE for size in (*sizes, 1 if weight.symmetric else points)]


def _size(weight: AnyWeight) -> int:
    return sum(_sizes(weight))


def _fill(weights: list[AnyWeight], buffer: Bytes, pack: Pack) -> None:
    start = 0
    for weight in weights:
        if isinstance(weight, AffineWeight):
            for part, size in zip(weight.parts, _sizes(weight), strict=True):
                buffer[start : start + part.nbytes] = part.reshape(-1)
                start += size
            continue
        codes, scales, _ = layout.integer_bytes(weight.bits, *weight.shape, weight.scales.shape[1])
        offsets = np.cumsum([start, *_sizes(weight)]).tolist()
        packed_codes = buffer[offsets[0] : offsets[0] + codes]
        if weight.signed is None:
            packed_codes[:] = weight.codes.data.reshape(-1)
        else:
            pack(weight.bits, weight.codes.data, weight.signed, weight.shape, packed_codes)
        packed_scales = layout.halves_as_bytes(layout.pack_qparams(weight.scales))
        buffer[offsets[1] : offsets[1] + scales] = packed_scales.reshape(-1)
        zeros = weight.zero_points if weight.symmetric else layout.pack_qparams(weight.zero_points)
        buffer[offsets[2] : offsets[2] + zeros.size] = zeros.reshape(-1)
        start = offsets[3]


def _packed(node: Any) -> Weight | None:
    """The weight of a node of the operator with integers; None for other nodes."""
    attributes = node.get_attributes()
    bits = next((bits for bits, name in INTEGERS.items() if name == attributes["weights"]), None)
    if bits is None or attributes["groups"] or attributes["inputs"] % RUN or node.get_output_size() != 1:
        return None
    codes, scales, zeros = (node.input_value(index).get_node() for index in (1, 2, 3))
    shape = int(node.get_output_partial_shape(0)[-1].get_length()), int(attributes["inputs"])
    points = np.array(zeros.data)
    return Weight(
        node, codes, bits, None, shape, layout.unpack_qparams(layout.bytes_as_halves(scales.data), shape[0]),
        points if points.size == 1 else layout.unpack_qparams(points, shape[0]),
    )  # fmt: skip


def _weight(product: Any) -> Weight | None:
    """The weight of a MatMul, where it is one that the operator holds."""
    if product.get_type_name() != "MatMul":
        return None
    attributes = product.get_attributes()
    node = _through(product.input_value(1).get_node(), "Convert", "Reshape")
    if attributes["transpose_a"] or not attributes["transpose_b"] or node.get_type_name() != "Multiply":
        return None
    value, scales = node.input_value(0).get_node(), _constant(node.input_value(1).get_node())
    zeros = None
    if value.get_type_name() == "Subtract":
        zeros = _constant(_through(value.input_value(1).get_node(), "Convert"))
        if zeros is None:
            return None
        value = value.input_value(0).get_node()
    codes = _constant(_through(value, "Convert"))
    if codes is None or scales is None or codes is value:
        return None
    return _checked(product, codes, scales, zeros)


def _checked(product: Any, codes: Any, scales: Any, zeros: Any) -> Weight | None:
    kind = codes.get_element_type().get_type_name()
    shape = [int(size) for size in codes.get_output_shape(0)]
    if kind not in _BITS or len(shape) not in (2, 3) or scales.get_element_type().get_type_name() != "f16":
        return None
    rows, columns = shape[0], int(np.prod(shape[1:]))
    groups = shape[1] if len(shape) == 3 else 1
    is_only_consumer = len(codes.output(0).get_target_inputs()) == 1
    owns_chain = len(_through(product.input_value(1).get_node()).output(0).get_target_inputs()) == 1
    if (
        columns % RUN
        or not layout.group_fits(columns // groups, columns)
        or scales.data.size != rows * groups
        or not (is_only_consumer and owns_chain)
    ):
        return None  # a head tied to the embedding would be in memory twice
    bits, signed = _BITS[kind], kind.startswith("i")
    points = _zero_points(zeros, bits, signed, rows * groups)
    if points is None:
        return None
    grid_shape = (rows, groups)
    return Weight(
        product,
        codes,
        bits,
        signed,
        (rows, columns),
        scales.data.reshape(grid_shape),
        points if points.size == 1 else points.reshape(grid_shape),
    )


def _zero_points(zeros: Any, bits: int, signed: bool, count: int) -> NDArray[np.uint8] | None:
    """Zero points for unsigned codes, `[count]` or `[1]`; None for zero points that are no 8-bit integers."""
    if zeros is None:
        return np.array([1 << (bits - 1) if signed else 0], np.uint8)
    kind = zeros.get_element_type().get_type_name()
    if signed or kind not in ("u2", "u4", "u8", "i8"):
        return None
    values = np.asarray(zeros.data).view(np.uint8).reshape(-1)
    width = _BITS[kind]
    if width < 8:
        shifts = np.arange(0, 8, width, dtype=np.uint8)
        values = ((values[:, None] >> shifts) & np.uint8((1 << width) - 1)).reshape(-1)[
            : int(np.prod(zeros.get_output_shape(0)))
        ]
    elif kind == "i8" and (values > 127).any():
        return None
    return np.array(values) if values.size in (1, count) else None


def _through(node: Any, *kinds: str) -> Any:
    while node.get_type_name() in kinds:
        node = node.input_value(0).get_node()
    return node


def _constant(node: Any) -> Any:
    return node if node.get_type_name() == "Constant" else None
