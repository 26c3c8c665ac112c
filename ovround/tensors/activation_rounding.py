"""The number of inputs that share a scale where an engine rounds activations to int8."""

from __future__ import annotations

from collections.abc import Iterable

OPENVINO_GROUPS = (128, 64, 32)  # 32 is the CPU plugin's default; larger ones are faster, and coarser


def openvino_group(weight_groups: Iterable[int]) -> int:
    """The largest of `OPENVINO_GROUPS` that divides the size of every group of weights; 32 where none does.

    DYNAMIC_QUANTIZATION_GROUP_SIZE is one number for the whole model. A group size counts inputs, all of a row for -1.
    """
    groups = set(weight_groups)
    return next((size for size in OPENVINO_GROUPS if all(group % size == 0 for group in groups)), OPENVINO_GROUPS[-1])
