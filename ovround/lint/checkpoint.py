"""Traps in a quantised checkpoint: what other importers do with it, silently or not."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from ovround.checkpoint import QuantisedCheckpoint, open_source
from ovround.checkpoint.quantised import quantization_config
from ovround.lint.finding import Finding, Rule
from ovround.qtensor import BITS

GENAI, OPTIMUM = "onnxruntime-genai", "optimum-intel"
_CONVERT = "`ovround convert` reads it bit for bit"
_READABLE = {GENAI: ("awq", "gptq", "olive"), OPTIMUM: ("awq", "gptq", "compressed-tensors")}
_LARGEST_BLOCK = 256

ORDER = Rule(
    "g-idx",
    "wrong",
    (OPTIMUM,),
    "activation order: optimum-intel never reads g_idx, and multiplies with the wrong scales",
    _CONVERT,
)
ORDER_ORT = Rule(
    "g-idx", "wrong", (GENAI,), "activation order: ONNX Runtime's g_idx gives wrong numbers at most widths", _CONVERT
)
VERSION_2 = Rule(
    "gptq-v2",
    "wrong",
    (GENAI,),
    "checkpoint_format gptq_v2 is not looked at: every zero point is read 1 too high",
    _CONVERT,
)
WIDTH = Rule("width", "fails", (OPTIMUM,), "optimum-intel imports 4 bits alone", _CONVERT)
WIDTH_3 = Rule("width", "fails", (GENAI,), "3-bit weights cannot be unpacked", _CONVERT)
GROUPS = Rule(
    "group-size",
    "fails",
    (GENAI,),
    "whole rows, or groups above 256, are written as blocks that ONNX Runtime refuses",
    _CONVERT,
)
HEAD = Rule(
    "rounded-head", "note", (GENAI,),
    "lm_head is in float: the builder with -p int4 rounds it to nearest, 4 bits in groups of 32, and does not say so",
    "extra option nodes_to_exclude=/lm_head/MatMul, or `ovround convert --lm-head-bits 8`",
)  # fmt: skip


def check_checkpoint(folder: Path) -> list[Finding]:
    """What is found in a checkpoint; nothing in one that is not quantised. Raises CheckpointError for one that cannot be read."""
    source = open_source(folder)
    if not isinstance(source, QuantisedCheckpoint):
        return []
    settings = quantization_config(folder, source.config) or {}
    packed = [
        name.removesuffix(f".{source.format.mark}")
        for name in source.stored.tensors()
        if name.endswith(source.format.mark)
    ]
    schemes = {module: scheme for module in packed if (scheme := source.scheme(module))}
    found: list[Finding] = []
    for engine, methods in _READABLE.items():
        if source.method not in methods:
            what = f"{engine} does not read {source.method}; it reads {', '.join(methods)}"
            found += Rule("method", "fails", (engine,), what, _CONVERT).at(["quantization_config"])
    ordered = [module for module in packed if _ordered(source, module)]
    found += ORDER.at(ordered) + ORDER_ORT.at(ordered)
    found += VERSION_2.at(["quantization_config"] if settings.get("checkpoint_format") == "gptq_v2" else [])
    found += WIDTH.at(module for module, scheme in schemes.items() if scheme.bits != 4 and scheme.bits in BITS)
    found += WIDTH_3.at(module for module, scheme in schemes.items() if scheme.bits == 3)
    long = (module for module, scheme in schemes.items() if not 0 < scheme.group_size <= _LARGEST_BLOCK)
    found += GROUPS.at(long)
    return found + HEAD.at([] if source.packed("lm_head") else ["lm_head"])


def _ordered(source: QuantisedCheckpoint, module: str) -> bool:
    """Whether a packed module's groups are not runs of neighbouring inputs."""
    for file in source.stored.files:
        for suffix in ("g_idx", "weight_g_idx"):
            if f"{module}.{suffix}" in file.tensors:
                return bool((np.diff(file.read_array(f"{module}.{suffix}")) < 0).any())
    return False
