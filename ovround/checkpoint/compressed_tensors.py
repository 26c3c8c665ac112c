"""compressed-tensors checkpoints, `pack-quantized`: what llm-compressor writes for weights of 4 and 8 bits.

    weight_packed     int32 [N, ceil(K * bits / 32)]   streams along K; level q is stored as q + 2^(bits-1), our code
    weight_scale      float [N, G]
    weight_zero_point int32 [ceil(N * bits / 32), G]   asymmetric only; packed along N, shifted likewise
    weight_shape      int64 [2]                        N and K; weight_g_idx int32 [K], optional: activation order

The first of `config_groups` whose `targets` name a module gives its scheme. A target is a module's name, `re:REGEX`, or a class.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from ovround.checkpoint.packed import (
    Array,
    Part,
    assembled,
    compiled,
    float16_exactly,
    grouped_columns,
    groups_of,
    quantised_by,
    read_scheme,
    row_parts,
)
from ovround.checkpoint.pattern import Pattern
from ovround.errors import CheckpointError
from ovround.tensors.packing import unpack_words
from ovround.tensors.qtensor import QTensor
from ovround.tensors.scheme import QuantScheme

CT_BITS = (4, 8)
PACKED_FORMAT = "pack-quantized"
_START = "start from the original checkpoint, or from one in pack-quantized format"


class Format:
    """A folder of compressed-tensors; names in `ignore` stay in float."""

    mark = "weight_packed"

    def __init__(self, quantization: Mapping[str, Any]) -> None:
        if quantization.get("sparsity_config"):
            raise CheckpointError("quantization_config: sparse weights cannot be read", hint=_START)
        _require(quantization.get("format"))
        groups = quantization.get("config_groups")
        if not isinstance(groups, Mapping) or not groups:
            raise CheckpointError("quantization_config: config_groups is no object")
        self._ignore = _targets(quantization.get("ignore") or [], "ignore")
        self._groups = [_group(name, group) for name, group in groups.items()]

    def scheme(self, module: str) -> QuantScheme | None:
        kind = "Embedding" if module.endswith("embed_tokens") else "Linear"
        if any(_names(target, module, kind) for target in self._ignore):
            return None
        for targets, scheme in self._groups:
            if any(_names(target, module, kind) for target in targets):
                return scheme
        return None

    def parts(self, module: str, shape: tuple[int, int]) -> Mapping[str, Part]:
        scheme = self.scheme(module)
        if scheme is None:
            return {}
        rows, columns = shape
        parts = {
            **row_parts(scheme, shape, "weight_packed", "weight_scale", "I32"),
            "weight_shape": Part(("I64", "I32"), (2,)),
            "weight_g_idx": Part(("I32", "I64"), (columns,), optional=True),
        }
        if not scheme.symmetric:
            parts["weight_zero_point"] = Part(("I32",), (-(-rows * scheme.bits // 32), groups_of(scheme, columns)))
        return parts

    def decode(self, module: str, shape: tuple[int, int], arrays: Mapping[str, Array]) -> QTensor:
        scheme = quantised_by(self.scheme(module))
        stated = tuple(int(size) for size in arrays["weight_shape"])
        if stated != shape:
            raise ValueError(f"weight_shape is {list(stated)}; its config.json calls for {list(shape)}")
        codes = unpack_words(arrays["weight_packed"], scheme.bits, shape[1])
        order = None
        if "weight_g_idx" in arrays and (arrays["weight_g_idx"] != -1).any():  # -1: no activation order
            codes, order = grouped_columns(codes, arrays["weight_g_idx"], scheme)
        scales = float16_exactly(arrays["weight_scale"])
        zero_points = np.full(scales.shape, 1 << (scheme.bits - 1), np.uint8)
        if not scheme.symmetric:
            zero_points = unpack_words(np.ascontiguousarray(arrays["weight_zero_point"].T), scheme.bits, shape[0]).T
        weight = assembled(codes, scales, zero_points, scheme)
        return QTensor(weight.codes, weight.scales, weight.zero_points, weight.bits, order)


def _require(stated: object) -> None:
    if stated != PACKED_FORMAT:
        raise CheckpointError(
            f"quantization_config: format is `{stated!s:.40}`; {PACKED_FORMAT} can be read", hint=_START
        )


def _group(name: str, group: object) -> tuple[list[str | Pattern], QuantScheme]:
    weights = group.get("weights") if isinstance(group, Mapping) else None
    if not isinstance(group, Mapping) or not isinstance(weights, Mapping):
        raise CheckpointError(f"quantization_config: config_groups `{name:.40}` says nothing of weights")
    if group.get("format") is not None:
        _require(group["format"])
    for part in ("input_activations", "output_activations"):
        if group.get(part):
            raise CheckpointError(
                f"quantization_config: config_groups `{name:.40}` has {part}; weights alone can be read", hint=_START
            )
    kind, strategy = weights.get("type", "int"), weights.get("strategy") or "group"
    if kind != "int" or strategy not in ("group", "channel"):
        raise CheckpointError(
            f"quantization_config: weights of `{name:.40}` are {kind!s:.20} by {strategy!s:.20}; int by group or channel can be read",
            hint=_START,
        )
    group_size = weights.get("group_size") if strategy == "group" else -1
    settings = {
        "bits": weights.get("num_bits"),
        "group_size": group_size,
        "symmetric": weights.get("symmetric", True),
    }
    scheme = read_scheme(settings, CT_BITS, symmetric="symmetric", where=f"group `{name}`")
    if scheme is None:
        raise CheckpointError(f"quantization_config: weights of `{name:.40}` have {weights.get('num_bits')} bits")
    return _targets(group.get("targets") or ["Linear"], "targets"), scheme


def _targets(names: object, key: str) -> list[str | Pattern]:
    if not isinstance(names, list):
        raise CheckpointError(f"quantization_config: {key} is {names!r:.40}; a list is needed")
    return [compiled(name[3:]) if str(name).startswith("re:") else str(name) for name in names]


def _names(target: str | Pattern, module: str, kind: str) -> bool:
    if isinstance(target, str):
        return target in (module, kind)
    return target.match(module)
