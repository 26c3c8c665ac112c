"""A second device without one: tensors that claim to lie on `meta`, compute on the CPU, and refuse to meet the CPU's own.

Within `fake_device()` a tensor moved to `torch.device("meta")` becomes such a tensor, and so does one that is made there.
"""

from __future__ import annotations

from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode, return_and_correct_aliasing
from torch.utils._pytree import tree_map

AT = torch.device("meta")
_aten = torch.ops.aten
_CROSSING = {_aten._to_copy.default, _aten.copy_.default}  # what moves tensors between devices
_INDEXING = {_aten.index.Tensor, _aten.index_put_.default}  # may take the CPU's row numbers


class FakeDeviceTensor(torch.Tensor):
    """`held` is the tensor that it stands for."""

    held: torch.Tensor

    @staticmethod
    def __new__(cls, held: torch.Tensor) -> FakeDeviceTensor:
        made: FakeDeviceTensor = torch.Tensor._make_wrapper_subclass(
            cls, held.shape, strides=held.stride(), storage_offset=held.storage_offset(), dtype=held.dtype, device=AT
        )
        made.held = held
        return made

    def __tensor_flatten__(self) -> tuple[list[str], None]:
        return ["held"], None

    @staticmethod
    def __tensor_unflatten__(inner: dict[str, torch.Tensor], *_: Any) -> FakeDeviceTensor:
        return FakeDeviceTensor(inner["held"])

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _compute(func, args, kwargs or {})


class fake_device(TorchDispatchMode):  # noqa: N801  used like a function
    """Catches what has no such tensor among its arguments yet: moves there, and tensors that are made there."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _compute(func, args, kwargs or {})


def _compute(func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
    device = kwargs.get("device")
    flat = [value for value in torch.utils._pytree.tree_leaves((args, kwargs)) if isinstance(value, torch.Tensor)]
    there = any(isinstance(value, FakeDeviceTensor) for value in flat)
    if not there and device != AT:
        return func(*args, **kwargs)
    if there and func not in _CROSSING | _INDEXING:
        strangers = [value for value in flat if not isinstance(value, FakeDeviceTensor) and value.dim()]
        assert not strangers, f"{func} of tensors on two devices: {[tuple(value.shape) for value in flat]}"
    held = tree_map(lambda value: value.held if isinstance(value, FakeDeviceTensor) else value, (args, kwargs))
    inner = {**held[1], **({"device": torch.device("cpu")} if "device" in kwargs else {})}
    result = func(*held[0], **inner)
    if func is _aten.copy_.default and not isinstance(args[0], FakeDeviceTensor):
        return args[0]
    if device is not None and device != AT:
        return result
    result = tree_map(lambda value: FakeDeviceTensor(value) if isinstance(value, torch.Tensor) else value, result)
    return return_and_correct_aliasing(func, args, kwargs, result) if there else result
