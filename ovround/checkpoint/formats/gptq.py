"""GPTQ checkpoints (AutoGPTQ, GPTQModel), version 1 and 2, and the layout that auto_round shares with them.

    qweight int32 [K * bits / 32, N]   each column's codes as one stream along K (`ovround.tensors.packing.pack_words`)
    qzeros  int32 [G, N * bits / 32]   each group's zero points along N; version 1 holds them less 1
    scales  float [G, N]               g_idx int32 [K], optional: the group of each input (activation order)

Version 1 writes a zero point of 0 as -1, which spills into its neighbours, and readers disagree about a stored `2^bits - 1`:
AutoGPTQ's kernels read 0, GPTQModel carries into the next code, auto_round reads `2^bits`. It is refused in GPTQ's own
folders and read as auto_round reads it in auto_round's.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from ovround.checkpoint.formats.packed import (
    FLOATS,
    Array,
    Part,
    Rule,
    assembled,
    compiled,
    grouped_columns,
    groups_of,
    quantised_by,
    read_scheme,
    stored_scales,
)
from ovround.errors import CheckpointError
from ovround.tensors.packing import unpack_words
from ovround.tensors.qtensor import BITS, QTensor
from ovround.tensors.scheme import QuantScheme

WORD = 32
VERSIONS = {"gptq": 1, "gptq_v2": 2}


class Format:
    """GPTQ's own folders: `dynamic` gives exceptions as `+:REGEX` and `-:REGEX`, the first that matches wins (GPTQModel)."""

    mark = "qweight"

    def __init__(self, quantization: Mapping[str, Any]) -> None:
        stated = str(quantization.get("checkpoint_format") or "gptq")
        if stated not in VERSIONS:
            raise CheckpointError(
                f"quantization_config: checkpoint_format is `{stated:.40}`; {', '.join(VERSIONS)} can be read",
                hint="other engines' repacked weights (marlin, exllama) are made from one of these: start from that",
            )
        self._version = VERSIONS[stated]
        self._general = {key: quantization[key] for key in ("bits", "group_size", "sym") if key in quantization}
        self._lm_head = bool(quantization.get("lm_head", False))
        self._rules = _dynamic_rules(quantization.get("dynamic"))

    def scheme(self, module: str) -> QuantScheme | None:
        settings = self._general
        rule = next((rule for rule in self._rules if rule.pattern.match(module)), None)
        if rule is not None:
            if rule.stays_float:
                return None
            settings = {**settings, **rule.settings}
        elif module == "lm_head" and not self._lm_head:
            return None
        return read_scheme(settings, BITS, symmetric="sym", where=f"`{module}`")

    def parts(self, module: str, shape: tuple[int, int]) -> Mapping[str, Part]:
        return stream_parts(self.scheme(module), shape)

    def decode(self, module: str, shape: tuple[int, int], arrays: Mapping[str, Array]) -> QTensor:
        return decode_stream(self.scheme(module), shape, arrays, version=self._version, wraps=False)


def _dynamic_rules(dynamic: object) -> list[Rule]:
    if not dynamic:
        return []
    if not isinstance(dynamic, Mapping):
        raise CheckpointError(f"quantization_config: dynamic is {dynamic!r:.40}; an object is needed")
    rules = []
    for key, settings in dynamic.items():
        pattern = key[2:] if key[:2] in ("+:", "-:") else key
        if not isinstance(settings, Mapping):
            raise CheckpointError(f"quantization_config: dynamic `{key:.60}` is {settings!r:.40}; an object is needed")
        rules.append(Rule(compiled(pattern), settings, key.startswith("-:")))
    return rules


def stream_parts(scheme: QuantScheme | None, shape: tuple[int, int]) -> dict[str, Part]:
    """The tensors of a weight `[N, K]` in this layout."""
    if scheme is None:
        return {}
    rows, columns = shape
    groups = groups_of(scheme, columns)
    return {
        "qweight": Part(("I32",), (-(-columns * scheme.bits // WORD), rows)),
        "qzeros": Part(("I32",), (groups, -(-rows * scheme.bits // WORD))),
        "scales": Part(FLOATS, (groups, rows)),
        "g_idx": Part(("I32", "I64"), (columns,), optional=True),
    }


def decode_stream(
    scheme: QuantScheme | None, shape: tuple[int, int], arrays: Mapping[str, Array], *, version: int, wraps: bool
) -> QTensor:
    """The weight `[N, K]` in these tensors; `wraps`: a stored zero point of `2^bits - 1` means `2^bits` in version 1.

    Raises ValueError for zero points that readers disagree about, and for what `assembled` and `grouped_columns` refuse.
    """
    scheme = quantised_by(scheme)
    rows, columns = shape
    codes = unpack_words(np.ascontiguousarray(arrays["qweight"].T), scheme.bits, columns)
    zero_points = unpack_words(arrays["qzeros"], scheme.bits, rows).T.astype(np.uint16)
    if version == 1:
        top = (1 << scheme.bits) - 1
        doubtful = int((zero_points == top).sum())
        if doubtful and not wraps:
            raise ValueError(
                f"{doubtful} zero points are stored as {top}, which readers of GPTQ version 1 disagree about"
            )
        zero_points += 1
    order = None
    if "g_idx" in arrays:
        codes, order = grouped_columns(codes, arrays["g_idx"], scheme)
    scales = np.ascontiguousarray(stored_scales(arrays["scales"]).T)
    weight = assembled(codes, scales, zero_points, scheme)
    return QTensor(weight.codes, weight.scales, weight.zero_points, weight.bits, order)
