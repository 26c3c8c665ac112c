"""compressed-tensors checkpoints, as llm-compressor writes them: integers of 4 and 8 bits, kept as they are.

`pack-quantized`:

    weight_packed     int32 [N, ceil(K * bits / 32)]   streams along K; level q is stored as q + 2^(bits-1), our code
    weight_scale      float [N, G]
    weight_zero_point int32 [ceil(N * bits / 32), G]   asymmetric only; packed along N, shifted likewise
    weight_shape      int64 [2]                        N and K; weight_g_idx int32 [K], optional: activation order

`int-quantized` (W8A8) and `naive-quantized`:

    weight            int8 [N, K]                      level q
    weight_scale      float [N, G], [N, 1] or [1]      weight_zero_point int8 like it, asymmetric only

The first of `config_groups` whose `targets` name a module gives its scheme. A target is a module's name, `re:REGEX`, or a class.
Each group has a format of its own where the folder is `mixed-precision`. Weights in small floats are read by `decoded`.
The quantisation of activations is left out, and reported.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from ovround.checkpoint.formats.packed import (
    FLOATS,
    Array,
    Part,
    assembled,
    compiled,
    grouped_columns,
    groups_of,
    quantised_by,
    read_scheme,
    row_parts,
    stored_scales,
)
from ovround.checkpoint.pattern import Pattern
from ovround.errors import CheckpointError
from ovround.tensors.packing import unpack_words
from ovround.tensors.qtensor import QTensor
from ovround.tensors.scheme import QuantScheme

CT_BITS = (4, 8)
PACKED_FORMAT = "pack-quantized"
_PLAIN_FORMATS = ("int-quantized", "naive-quantized")
_FLOAT_FORMATS = (
    "float-quantized", "naive-quantized", "nvfp4-pack-quantized", "mxfp4-pack-quantized", "mxfp8-quantized",
)  # fmt: skip
_MIXED = "mixed-precision"
_DENSE = "dense"
_START = "start from the original, unquantised checkpoint"
_ONLINE = ("input", "output", "q_attn", "k_cache")  # places of transforms that are computed on activations


@dataclass(frozen=True, slots=True)
class Group:
    """Modules of one kind: their scheme, None for small floats; whether codes are packed, or plain int8; scales a tensor."""

    targets: list[str | Pattern]
    scheme: QuantScheme | None
    packed: bool = True
    by_tensor: bool = False


class Format:
    """A folder of compressed-tensors; names in `ignore` stay in float.

    `floats` and `integers` say what is there, `notes` what is left out, and `block_size` the outputs and inputs of an FP8 block.
    """

    mark = "weight_scale"

    def __init__(self, quantization: Mapping[str, Any]) -> None:
        sparsity = quantization.get("sparsity_config")
        if sparsity and not (isinstance(sparsity, Mapping) and sparsity.get("format") == _DENSE):
            raise CheckpointError("quantization_config: sparse weights cannot be read", hint=_START)
        _check_transforms(quantization.get("transform_config"))
        groups = quantization.get("config_groups")
        if not isinstance(groups, Mapping) or not groups:
            raise CheckpointError("quantization_config: config_groups is no object")
        self._ignore = _targets(quantization.get("ignore") or [], "ignore")
        self._groups = [_group(name, group, quantization.get("format")) for name, group in groups.items()]
        self.floats = any(group.scheme is None for group in self._groups)
        self.integers = any(group.scheme is not None for group in self._groups)
        self.notes = _activation_notes(groups)
        self.block_size = _block_size(groups)

    def scheme(self, module: str) -> QuantScheme | None:
        group = self._group(module)
        return None if group is None else group.scheme

    def _group(self, module: str) -> Group | None:
        kind = "Embedding" if module.endswith("embed_tokens") else "Linear"
        if any(_names(target, module, kind) for target in self._ignore):
            return None
        return next(
            (group for group in self._groups if any(_names(target, module, kind) for target in group.targets)), None
        )

    def parts(self, module: str, shape: tuple[int, int]) -> Mapping[str, Part]:
        group = self._group(module)
        if group is None or group.scheme is None:
            return {}
        rows, columns = shape
        scheme = group.scheme
        if not group.packed:
            scales = (1,) if group.by_tensor else (rows, groups_of(scheme, columns))
            return {
                "weight": Part(("I8",), shape),
                "weight_scale": Part(FLOATS, scales),
                "weight_zero_point": Part(("I8", "I32", "I64"), scales, optional=scheme.symmetric),
            }
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
        if "weight" in arrays:
            return _plain(scheme, shape, arrays)
        stated = tuple(int(size) for size in arrays["weight_shape"])
        if stated != shape:
            raise ValueError(f"weight_shape is {list(stated)}; its config.json calls for {list(shape)}")
        codes = unpack_words(arrays["weight_packed"], scheme.bits, shape[1])
        order = None
        if "weight_g_idx" in arrays and (arrays["weight_g_idx"] != -1).any():  # -1: no activation order
            codes, order = grouped_columns(codes, arrays["weight_g_idx"], scheme)
        scales = stored_scales(arrays["weight_scale"])
        zero_points = np.full(scales.shape, 1 << (scheme.bits - 1), np.uint8)
        if not scheme.symmetric:
            zero_points = unpack_words(np.ascontiguousarray(arrays["weight_zero_point"].T), scheme.bits, shape[0]).T
        weight = assembled(codes, scales, zero_points, scheme)
        return QTensor(weight.codes, weight.scales, weight.zero_points, weight.bits, order)


def _plain(scheme: QuantScheme, shape: tuple[int, int], arrays: Mapping[str, Array]) -> QTensor:
    """The weight `[N, K]` whose levels lie as int8; raises ValueError for levels beyond its bits."""
    half, groups = 1 << (scheme.bits - 1), groups_of(scheme, shape[1])
    codes = arrays["weight"].astype(np.int16) + half
    if codes.min(initial=0) < 0 or codes.max(initial=0) >= 2 * half:
        raise ValueError(f"a level lies outside of {-half} to {half - 1}, the range of {scheme.bits} bits")
    scales = np.broadcast_to(stored_scales(arrays["weight_scale"]), (shape[0], groups))
    zeros = arrays.get("weight_zero_point", np.zeros(1, np.int8)).astype(np.int64) + half
    if zeros.min(initial=0) < 0:
        raise ValueError(f"a zero point lies below {-half}")
    zero_points = np.broadcast_to(zeros, scales.shape)
    return assembled(codes.astype(np.uint8), np.ascontiguousarray(scales), np.ascontiguousarray(zero_points), scheme)


def _group(name: str, group: object, general: object) -> Group:
    """A group of the configuration, in a format of its own or in the `general` one."""
    if not isinstance(group, Mapping) or not isinstance(group.get("weights"), Mapping):
        raise CheckpointError(f"quantization_config: config_groups `{name:.40}` says nothing of weights")
    weights, where = group["weights"], f"weights of `{name:.40}`"
    stated = group.get("format") or (PACKED_FORMAT if general == _MIXED else general)
    kind, strategy = weights.get("type") or "int", weights.get("strategy") or "group"
    known = _FLOAT_FORMATS if kind == "float" else (PACKED_FORMAT, *_PLAIN_FORMATS)
    if stated not in known or kind not in ("int", "float"):
        raise CheckpointError(
            f"quantization_config: {where} are {kind!s:.20} in format `{stated!s:.40}`; {', '.join(known)} can be read",
            hint=_START,
        )
    targets = _targets(group.get("targets") or ["Linear"], "targets")
    if kind == "float":
        return Group(targets, None)
    packed = stated == PACKED_FORMAT
    if strategy not in ("group", "channel") and (packed or strategy != "tensor"):
        raise CheckpointError(
            f"quantization_config: {where} are int by {strategy!s:.20}; group, channel{'' if packed else ', tensor'} can be read",
            hint=_START,
        )
    settings = {
        "bits": weights.get("num_bits"),
        "group_size": weights.get("group_size") if strategy == "group" else -1,
        "symmetric": weights.get("symmetric", True),
    }
    scheme = read_scheme(settings, CT_BITS, symmetric="symmetric", where=f"group `{name}`")
    if scheme is None:
        raise CheckpointError(f"quantization_config: {where} have {weights.get('num_bits')} bits")
    return Group(targets, scheme, packed, strategy == "tensor")


def _activation_notes(groups: Mapping[str, Any]) -> tuple[str, ...]:
    """What the groups say of activations, in words."""
    kinds = {
        f"{stated.get('num_bits')}-bit {stated.get('type') or 'int'}"
        for group in groups.values()
        for part in ("input_activations", "output_activations")
        if isinstance(stated := group.get(part), Mapping)
    }
    return tuple(f"quantisation of activations ({kind:.40}) is left out: they stay in float" for kind in sorted(kinds))


def _block_size(groups: Mapping[str, Any]) -> list[int] | None:
    """The outputs and inputs of a block, `[128, 128]` or `128x128`; None where no group states them."""
    for group in groups.values():
        stated = group["weights"].get("block_structure")
        sizes = stated.split("x") if isinstance(stated, str) else stated
        if isinstance(sizes, list) and len(sizes) == 2 and all(str(size).isdecimal() for size in sizes):
            return [int(size) for size in sizes]
    return None


def _check_transforms(transforms: object) -> None:
    """Raise CheckpointError for rotations of activations, without which the weights are another model's."""
    groups = transforms.get("config_groups") if isinstance(transforms, Mapping) else None
    for name, group in (groups if isinstance(groups, Mapping) else {}).items():
        applied = group.get("apply") if isinstance(group, Mapping) else None
        places = [part.get("location") for part in applied or [] if isinstance(part, Mapping)]
        online = next((place for place in places if place in _ONLINE), None)
        if online is not None:
            raise CheckpointError(
                f"quantization_config: transform_config `{name!s:.40}` transforms activations ({online}), which no engine here does",
                hint=_START,
            )


def _targets(names: object, key: str) -> list[str | Pattern]:
    if not isinstance(names, list):
        raise CheckpointError(f"quantization_config: {key} is {names!r:.40}; a list is needed")
    return [compiled(name[3:]) if str(name).startswith("re:") else str(name) for name in names]


def _names(target: str | Pattern, module: str, kind: str) -> bool:
    if isinstance(target, str):
        return target in (module, kind)
    return target.match(module)
