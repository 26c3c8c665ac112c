"""Traps in a quantised checkpoint: what other importers make of it, often silently."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from ovround.check.finding import Finding, Rule
from ovround.checkpoint import QuantisedCheckpoint, open_source
from ovround.checkpoint.gguf import GgufCheckpoint
from ovround.checkpoint.gguf.opening import read_whole
from ovround.checkpoint.quantised import quantization_config
from ovround.tensors.qtensor import BITS
from ovround.tensors.scheme import QuantScheme

GENAI, OPTIMUM = "onnxruntime-genai", "optimum-intel"
_CT, _NIBBLE = "compressed-tensors", 4
_CONVERT = "`ovround convert` reads it bit for bit"
_READABLE = {GENAI: ("awq", "gptq", "olive"), OPTIMUM: ("awq", "gptq", "compressed-tensors")}
_WITH_MINIMUM = ("Q4_1", "Q4_K")
_BY_GENAI = ("F32", "F16", "BF16", "Q4_0", "Q4_1", "Q8_0", "Q4_K", "Q6_K")
_BLOCKS = (16, 32, 64, 128, 256)
_QKV = ("q_proj", "k_proj", "v_proj")

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
    "blocks are 16, 32, 64, 128 or 256 inputs in ONNX Runtime: whole rows and other groups are written, and refused when loaded",
    _CONVERT,
)
CHANNEL = Rule(
    "channel", "fails", (OPTIMUM,), "compressed-tensors by whole rows is not imported, groups are", _CONVERT
)  # fmt: skip
MIXED = Rule(
    "mixed-symmetry", "wrong", (OPTIMUM,),
    "some layers are symmetric and some are not: optimum-intel asks the configuration once, for all of them", _CONVERT,
)  # fmt: skip
OVERFLOW = Rule(
    "zero-point-16", "wrong", (OPTIMUM,),
    "a zero point is stored as 15: 1 is added to the packed byte, and it runs over into its neighbour", "tune again",
)  # fmt: skip
APART = Rule(
    "separate-qkv", "note", (GENAI,),
    "query, key and value differ in bits or groups: they become three products instead of one", "one scheme for the three",
)  # fmt: skip
AUTOAWQ = Rule(
    "needs-autoawq", "note", (OPTIMUM,),
    "without the package autoawq, which is no longer maintained, optimum-intel does not import AWQ", _CONVERT,
)  # fmt: skip
ROUNDED = Rule(
    "gguf-minimum", "wrong", ("openvino",),
    "openvino_genai's and OpenVINO's readers of GGUF round the minimum of a group to a whole number of steps",
    "Q4_0 or Q8_0; or start from the original checkpoint",
)  # fmt: skip
EXPANDED = Rule(
    "gguf-expanded", "slow", ("openvino",),
    "openvino_genai's reader of GGUF expands this type to float16", "Q4_0, Q8_0 or Q6_K; or `ovround convert`",
)  # fmt: skip
HEAD = Rule(
    "rounded-head", "note", (GENAI,),
    "lm_head is in float: the builder with -p int4 rounds it to nearest, 4 bits in groups of 32, and does not say so",
    "extra option nodes_to_exclude=/lm_head/MatMul, or `ovround convert --lm-head-bits 8`",
)  # fmt: skip


def check_checkpoint(folder: Path) -> list[Finding]:
    """The findings for a checkpoint; none for an unquantised one. Raises CheckpointError for one that cannot be read."""
    if folder.suffix == ".gguf":  # of any architecture: other readers have more than we
        kinds = {name: info.kind for name, info in read_whole(folder).tensors.items()}
        return _gguf(kinds)
    source = open_source(folder)
    if isinstance(source, GgufCheckpoint):
        return _gguf({name: info.kind for name, info in source.tensors.items()})
    if not isinstance(source, QuantisedCheckpoint):
        return []
    settings = quantization_config(folder, source.config) or {}
    packed = [
        name.removesuffix(f".{source.format.mark}")
        for name in source.stored.tensors()
        if name.endswith(source.format.mark)
    ]
    schemes = {module: scheme for module in packed if (scheme := source.scheme(module))}
    findings: list[Finding] = []
    for engine, methods in _READABLE.items():
        if source.method not in methods:
            what = f"{engine} does not read {source.method}; it reads {', '.join(methods)}"
            findings += Rule("method", "fails", (engine,), what, _CONVERT).at(["quantization_config"])
    ordered = [module for module in packed if _ordered(source, module)]
    findings += ORDER.at(ordered) + ORDER_ORT.at(ordered)
    findings += VERSION_2.at(["quantization_config"] if settings.get("checkpoint_format") == "gptq_v2" else [])
    findings += WIDTH.at(module for module, scheme in schemes.items() if scheme.bits != 4 and scheme.bits in BITS)
    findings += WIDTH_3.at(module for module, scheme in schemes.items() if scheme.bits == 3)
    findings += GROUPS.at(module for module, scheme in schemes.items() if scheme.group_size not in _BLOCKS)
    findings += CHANNEL.at(
        module for module, scheme in schemes.items() if scheme.group_size == -1 and source.method == _CT
    )
    findings += MIXED.at(_mixed(schemes, source.method))
    findings += OVERFLOW.at(
        module for module in schemes if source.method == "gptq" and _overflows(source, module, settings)
    )
    findings += APART.at(_apart(schemes))
    findings += AUTOAWQ.at(["quantization_config"] if source.method == "awq" else [])
    return findings + HEAD.at([] if source.packed("lm_head") else ["lm_head"])


def _gguf(kinds: dict[str, str]) -> list[Finding]:
    """The findings for tensors of these types."""
    rounded = ROUNDED.at(name for name, kind in kinds.items() if kind in _WITH_MINIMUM)
    return rounded + EXPANDED.at(name for name, kind in kinds.items() if kind not in _BY_GENAI)


def _mixed(schemes: dict[str, QuantScheme], method: str) -> list[str]:
    """The modules whose symmetry is not that of the first, where an importer asks only once."""
    kinds = list(schemes.items()) if method == "gptq" else []
    return [module for module, scheme in kinds if scheme.symmetric != kinds[0][1].symmetric]


def _apart(schemes: dict[str, QuantScheme]) -> list[str]:
    """Attention modules whose query, key and value differ in their schemes."""
    by_attention: dict[str, set[QuantScheme | None]] = {}
    for module, scheme in schemes.items():
        at, _, last = module.rpartition(".")
        if last in _QKV:
            by_attention.setdefault(at, set()).add(scheme)
    return [at for at, kinds in by_attention.items() if len(kinds) > 1]


def _overflows(source: QuantisedCheckpoint, module: str, settings: dict[str, Any]) -> bool:
    """Whether a zero point of 16, stored as 15, is there: 1 is added in packed words, and it runs over into its neighbour."""
    scheme = source.scheme(module)
    if settings.get("checkpoint_format") == "gptq_v2" or scheme is None or scheme.bits != _NIBBLE:
        return False
    for file in source.stored.files:
        if f"{module}.qzeros" in file.tensors:
            words = file.read_array(f"{module}.qzeros").astype(np.int64)
            return bool(any(((words >> (4 * index)) & 15 == 15).any() for index in range(8)))
    return False


def _ordered(source: QuantisedCheckpoint, module: str) -> bool:
    """Whether a packed module's groups are not runs of neighbouring inputs."""
    for file in source.stored.files:
        for suffix in ("g_idx", "weight_g_idx"):
            if f"{module}.{suffix}" in file.tensors:
                return bool((np.diff(file.read_array(f"{module}.{suffix}")) < 0).any())
    return False
