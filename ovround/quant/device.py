"""Where tuning computes. Only this file and `distributed` know devices by name; all others ask a `Device` to take tensors.

A block's tensors go to the device while it is tuned, the chains stay in host memory and visit it a batch at a time.
"""

from __future__ import annotations

import importlib
import importlib.util
from dataclasses import dataclass

import torch

from ovround.errors import EngineError

ACCELERATORS = ("cuda", "xpu", "hpu")  # in the order that `auto` looks for them
_PINNED = ("cuda", "xpu")  # page-locked memory is copied from while the device computes
_HPU_MODULE = "habana_frameworks.torch"


@dataclass(frozen=True, slots=True)
class Device:
    """One device; `at` is torch's name of it. On the CPU nothing is moved or copied."""

    at: torch.device

    @property
    def kind(self) -> str:
        """cpu, cuda, xpu or hpu."""
        return self.at.type

    def put(self, tensor: torch.Tensor) -> torch.Tensor:
        """The tensor on the device; itself when it is there."""
        if tensor.device.type == self.kind:
            return tensor
        if self.kind in _PINNED:
            return tensor.pin_memory().to(self.at, non_blocking=True)
        return tensor.to(self.at)

    def end_step(self) -> None:
        """Tell a device that gathers operations before it computes them (hpu in lazy mode) that a step is complete."""
        if self.kind == "hpu":
            importlib.import_module(f"{_HPU_MODULE}.core").mark_step()

    def model(self) -> str:
        """What it calls itself, for the fingerprint; empty for the CPU, whose instructions are in it."""
        if self.kind == "cpu":
            return ""
        return str(getattr(torch, self.kind).get_device_name(self.at))


CPU = Device(torch.device("cpu"))


def resolve(name: str) -> str:
    """The device that `name` means, cpu, cuda, xpu or hpu; `auto`: the first of ACCELERATORS that is there, else cpu.

    Raises EngineError naming what is there when the device asked for is not.
    """
    if name == "cpu":
        return name
    there = [kind for kind in ACCELERATORS if is_available(kind)]
    if name == "auto":
        return there[0] if there else "cpu"
    if name in there:
        return name
    hint = f"available: auto, {', '.join(['cpu', *there])}"
    if name == "hpu" and not _has_hpu_module():
        raise EngineError(f"device is hpu, which needs `{_HPU_MODULE}`; it is not installed", hint=hint)
    raise EngineError(f"device is {name}, which torch {torch.__version__} does not find on this machine", hint=hint)


def is_available(kind: str) -> bool:
    """Whether torch has a working device of this kind; imports Habana's modules when hpu is asked about and they are there."""
    if kind == "hpu":
        if not _has_hpu_module():
            return False
        importlib.import_module(_HPU_MODULE)  # gives torch the device
    module = getattr(torch, kind, None)
    return module is not None and bool(module.is_available())


def open_device(kind: str, number: int) -> Device:
    """The device of a resolved kind; several processes of a machine take one each by `number`. Raises EngineError for too few."""
    if kind == "cpu":
        return CPU
    if kind == "hpu":
        importlib.import_module(_HPU_MODULE)
    module = getattr(torch, kind)
    count = module.device_count()
    if number >= count:
        raise EngineError(
            f"process {number} of this machine finds {count} {kind} device{'s' * (count != 1)}",
            hint=f"torchrun --nproc-per-node {count}, or --device cpu",
        )
    module.set_device(number)
    return Device(torch.device(kind, number))


def _has_hpu_module() -> bool:
    return importlib.util.find_spec(_HPU_MODULE.partition(".")[0]) is not None
