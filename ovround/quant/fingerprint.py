"""What a tuned conversion's integers depend on, in words: equal facts, equal bits."""

from __future__ import annotations

import hashlib
import json
import platform
from collections.abc import Mapping

import torch

import ovround
from ovround.options.convert_options import ConvertOptions
from ovround.quant.calibration.samples import Calibration
from ovround.quant.device import Device

_WITHOUT_INFLUENCE = ("formats", "verify", "native_weights")
_BY_CONTENT = ("calibration",)  # files by any name, while the windows are the same
_SHOWN_DIGITS = 16


def fingerprint_of(
    options: ConvertOptions,
    source_files: Mapping[str, str],
    calibration: Calibration,
    versions: Mapping[str, str],
    processes: int,
    device: Device,
) -> dict[str, str]:
    """Each thing that the integers depend on by a name that a message can use; `source_files` gives sha256 by file name."""
    facts = {
        name.replace("_", "-"): value if isinstance(value, str) else json.dumps(value)
        for name, value in options.as_json().items()
        if name not in (*_WITHOUT_INFLUENCE, *_BY_CONTENT)
    }
    count, length = calibration.samples.shape
    digest = hashlib.sha256(calibration.samples.astype("<i8").tobytes()).hexdigest()
    facts["calibration text"] = f"{count} windows of {length} tokens, {_short(digest)}"
    facts |= {f"source file {name}": _short(sha256) for name, sha256 in source_files.items()}
    facts |= {name: versions[name] for name in ("torch", "numpy") if name in versions}
    facts["ovround"] = ovround.__version__
    facts["threads"] = str(torch.get_num_threads())
    facts["processor"] = _processor()
    facts["processes"] = str(processes)
    if device.model():
        facts["accelerator"] = device.model()
    return facts


def _short(sha256: str) -> str:
    return f"sha256 {sha256[:_SHOWN_DIGITS]}"


def _processor() -> str:
    """The instructions that torch chooses its kernels by."""
    capabilities = torch.cpu.get_capabilities() if hasattr(torch.cpu, "get_capabilities") else {}
    half = [name for name in ("amx_bf16", "avx512_bf16") if capabilities.get(name)]
    return " ".join([platform.machine(), torch.backends.cpu.get_cpu_capability(), *half])
