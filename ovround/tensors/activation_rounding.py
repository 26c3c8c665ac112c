"""How many inputs of a layer share a scale where an engine rounds activations to int8 as it multiplies."""

from __future__ import annotations

from collections.abc import Iterable

OPENVINO_GROUPS = (128, 64, 32)  # 32 is the CPU plugin's default; larger ones are faster, and coarser


def openvino_group(weight_groups: Iterable[int]) -> int:
    """The largest of `OPENVINO_GROUPS` that divides every group of weights, 32 where none does.

    DYNAMIC_QUANTIZATION_GROUP_SIZE is one number for the whole model. Groups are counted in inputs: a row of its own is one.
    """
    groups = set(weight_groups)
    return next((size for size in OPENVINO_GROUPS if all(group % size == 0 for group in groups)), OPENVINO_GROUPS[-1])
