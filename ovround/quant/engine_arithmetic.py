"""How engines round activations in their default mode, so that tuning can compensate it.

ONNX Runtime (MatMulNBits, accuracy level 4) rounds each row to int8 with one scale for each block of the weight's inputs.
OpenVINO's CPU plugin uses one scale for 32 to 128 inputs (DYNAMIC_QUANTIZATION_GROUP_SIZE, which the exporter sets), except for
weights with signed zero points, which 2-bit weights have here. Neither rounds the input of a weight in float.
"""

from __future__ import annotations

from collections.abc import Mapping

from ovround.quant.plan import Plan
from ovround.tensors.activation_rounding import openvino_group
from ovround.tensors.scheme import QuantScheme

_ONNX_BLOCKS = (16, 32, 64, 128, 256)
_ONNX_SPLITS = (128, 64, 32, 16)


def activation_groups(plan: Plan, shapes: Mapping[str, tuple[int, ...]], engine: str) -> dict[str, int]:
    """Module name -> how many of its inputs share a scale when `engine` (`none`, `onnx`, `openvino`) rounds them to 8 bits.

    `shapes` are the model's tensors, `{module}.weight` `[N, K]` among them; modules that are not there are left out.
    """
    groups = {}
    openvino = openvino_group(weight_groups(plan, shapes))
    for name, scheme in plan.items():
        shape = shapes.get(f"{name}.weight")
        if not isinstance(scheme, QuantScheme) or shape is None or engine == "none":
            continue
        group = _openvino_group(scheme, openvino) if engine == "openvino" else _onnx_group(scheme, shape[1])
        if group is not None:
            groups[name] = group
    return groups


def weight_groups(plan: Plan, shapes: Mapping[str, tuple[int, ...]]) -> list[int]:
    """The group size of each quantised weight, in inputs."""
    return [
        shapes[f"{name}.weight"][1] if scheme.group_size == -1 else scheme.group_size
        for name, scheme in plan.items()
        if isinstance(scheme, QuantScheme) and f"{name}.weight" in shapes
    ]


def _openvino_group(scheme: QuantScheme, group: int) -> int | None:
    return None if scheme.bits == 2 else group


def _onnx_group(scheme: QuantScheme, columns: int) -> int:
    """The block size of this weight's MatMulNBits (`ovround.exporters.onnx.matmul_nbits` gives the reason)."""
    if scheme.group_size in _ONNX_BLOCKS and not (scheme.bits == 2 and scheme.group_size == 256):
        return scheme.group_size
    group = columns if scheme.group_size == -1 else scheme.group_size
    return next((size for size in _ONNX_SPLITS if group % size == 0), 128)
