"""The devices and versions of this machine, as a report for an issue."""

from __future__ import annotations

import importlib.util
import os
import platform
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from ovround.runtime.engines.native import library as native_library
from ovround.runtime.memory import total_bytes

LIBRARIES = ("ovround", "openvino", "openvino-tokenizers", "onnxruntime", "tokenizers", "numpy")
# Instruction sets by which the engines choose kernels, with /proc/cpuinfo's names: Intel and AMD, then ARM.
_CPU_FLAGS = (
    "avx2", "f16c", "fma", "avx_vnni", "avx512f", "avx512_vnni", "avx512_bf16", "avx512_fp16", "amx_tile", "amx_int8",
    "amx_bf16", "asimddp", "asimdhp", "i8mm", "bf16", "sve", "sve2",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Device:
    """A device of an engine; `available`: whether ovround can run a model on it here; `note`: the reason if it cannot."""

    engine: str
    device: str
    full_name: str
    available: bool
    note: str = ""


@dataclass(frozen=True, slots=True)
class Kernels:
    """The native operator on this machine."""

    kernel: str
    """Whose kernels `auto` uses for ordinary OpenVINO folders on CPU: `native` or `engine`."""
    instruction_set: str
    """Of the native operator here, such as `amx`; empty if it is not installed."""
    note: str
    """Why the engine's kernels are used; empty if they are not."""


@dataclass(frozen=True, slots=True)
class Machine:
    """The computer and the versions in use; unknown sizes are 0."""

    system: str
    python: str
    cpu: str
    cores: int
    cpu_flags: tuple[str, ...]
    last_cache_bytes: int
    memory_bytes: int
    versions: dict[str, str]


def devices() -> list[Device]:
    """Every device of OpenVINO and ONNX Runtime on this machine, and of PyTorch's HPU plugin if it is installed.

    An engine that is not installed is listed as unavailable. The HPU plugin changes the process that imports it, so another
    process imports it.
    """
    return [*_openvino_devices(), *_onnx_devices(), *_hpu_devices()]


def machine() -> Machine:
    """This computer."""
    words = _cpuinfo()
    flags = set((words.get("flags") or words.get("Features") or "").split())
    return Machine(
        system=platform.platform(),
        python=platform.python_version(),
        cpu=words.get("model name") or platform.processor() or platform.machine(),
        cores=available_cores(),
        cpu_flags=tuple(flag for flag in _CPU_FLAGS if flag in flags),
        last_cache_bytes=last_cache_bytes(),
        memory_bytes=total_bytes() or 0,
        versions={name: text for name in LIBRARIES if (text := _version(name))},
    )


def kernels() -> Kernels:
    """Whose kernels compute on this machine's CPU, and why."""
    try:
        from ovround.runtime.engines.native import operator
    except ImportError as error:
        return Kernels("engine", "", f"OpenVINO cannot be imported: {error}")
    path = operator.library_path()
    if path is None:
        return Kernels("engine", "", f"the native operator is not installed: {native_library.INSTALL}")
    try:
        instructions = native_library.instruction_set(path)
        faster = native_library.is_faster(path)
    except OSError as error:
        return Kernels("engine", "", f"the native operator cannot be loaded: {error}")
    if reason := operator.misfit():
        return Kernels("engine", instructions, reason)
    if not faster:
        return Kernels(
            "engine", instructions, "this processor has no 8-bit dot products, so OpenVINO's kernels are faster"
        )
    return Kernels("native", instructions, "")


def available_cores() -> int:
    """Number of logical cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def last_cache_bytes() -> int:
    """Size of the last-level cache from Linux; 0 on other systems."""
    sizes = [0]
    for path in Path("/sys/devices/system/cpu/cpu0/cache").glob("index*/size"):
        text = path.read_text(encoding="ascii").strip()
        unit = {"K": 1 << 10, "M": 1 << 20}.get(text[-1:], 1)
        digits = text.rstrip("KM")
        sizes.append(int(digits) * unit if digits.isdigit() else 0)
    return max(sizes)


def _openvino_devices() -> list[Device]:
    try:
        import openvino as ov
    except ImportError as error:
        return [Device("OpenVINO", "CPU", "", False, f"cannot be imported: {error}")]
    core = ov.Core()
    devices = []
    for name in core.available_devices:
        try:
            devices.append(Device("OpenVINO", name, str(core.get_property(name, "FULL_DEVICE_NAME")), True))
        except RuntimeError as error:
            devices.append(Device("OpenVINO", name, "", False, str(error).strip().splitlines()[-1]))
    return devices


def _onnx_devices() -> list[Device]:
    try:
        import onnxruntime as ort
    except ImportError as error:
        return [Device("ONNX Runtime", "CPU", "", False, f"cannot be imported: {error}")]
    return [
        Device("ONNX Runtime", "CPU", provider, True)
        if provider == "CPUExecutionProvider"
        else Device("ONNX Runtime", provider.removesuffix("ExecutionProvider"), provider, False, "not used by ovround")
        for provider in ort.get_available_providers()
    ]


def _hpu_devices() -> list[Device]:
    if importlib.util.find_spec("habana_frameworks") is None:
        return []
    try:
        from ovround.runtime.hpu.device import probe_in_subprocess
    except ModuleNotFoundError as error:
        return [Device("PyTorch", "HPU", "", False, f"cannot be asked: {error}")]
    probe = probe_in_subprocess()
    return [Device("PyTorch", "HPU", probe.device_name, probe.available, probe.missing)]


def _cpuinfo() -> dict[str, str]:
    """The first core's entries of /proc/cpuinfo; empty without that file."""
    path = Path("/proc/cpuinfo")
    if not path.is_file():
        return {}
    first = path.read_text(encoding="utf-8", errors="replace").split("\n\n")[0]
    pairs = (line.partition(":") for line in first.splitlines())
    return {key.strip(): value.strip() for key, _, value in pairs}


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None
