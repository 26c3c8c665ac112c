"""What a tuned conversion's integers depend on, in words: equal fingerprints, equal bits."""

from __future__ import annotations

import hashlib
import json
import platform
from collections.abc import Mapping

import torch

import ovround
from ovround.options.convert_options import ConvertOptions
from ovround.options.option import declared, plain
from ovround.options.tuning_settings import TuningSettings
from ovround.quant.calibration.samples import Calibration
from ovround.quant.device import Device

_SHOWN_DIGITS = 16


def fingerprint(
    options: ConvertOptions,
    settings: TuningSettings,
    source_files: Mapping[str, str],
    calibration: Calibration,
    versions: Mapping[str, str],
    processes: int,
    device: Device,
) -> dict[str, str]:
    """Each thing that the integers depend on by a name that a message can use; `source_files` gives sha256 by file name."""
    values = option_values(options) | option_values(options.tuning)
    values["compiled steps"] = json.dumps(settings.compile)
    count, length = calibration.samples.shape
    digest = hashlib.sha256(calibration.samples.astype("<i8").tobytes()).hexdigest()
    values["calibration text"] = f"{count} samples of {length} tokens, {_short(digest)}"
    values |= {f"source file {name}": _short(sha256) for name, sha256 in source_files.items()}
    values |= {name: versions[name] for name in ("torch", "numpy") if name in versions}
    values["ovround"] = ovround.__version__
    values["threads"] = str(torch.get_num_threads())
    values["processor"] = _processor()
    values["processes"] = str(processes)
    if device.model():
        values["accelerator"] = device.model()
    return values


def option_values(record: object) -> dict[str, str]:
    """The options that integers depend on by their value, as a user calls them; those of a record within are not its own."""
    values = plain(record)
    return {
        entry.label: value if isinstance(value, str) else json.dumps(value)
        for entry in declared(type(record))
        if entry.option.fingerprint == "value" and not isinstance(value := values[entry.name], dict)
    }


def _short(sha256: str) -> str:
    return f"sha256 {sha256[:_SHOWN_DIGITS]}"


def _processor() -> str:
    """The instructions that torch chooses its kernels by."""
    capabilities = torch.cpu.get_capabilities() if hasattr(torch.cpu, "get_capabilities") else {}
    half = [name for name in ("amx_bf16", "avx512_bf16") if capabilities.get(name)]
    return " ".join([platform.machine(), torch.backends.cpu.get_cpu_capability(), *half])
