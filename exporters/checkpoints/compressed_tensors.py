"""compressed-tensors folders, `pack-quantized`, as transformers and vLLM read them; layout: `checkpoint.formats.compressed_tensors`.

Widths are 4 and 8: fewer bits are widened.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from ovround.exporters.checkpoints.gptq import transposed
from ovround.exporters.checkpoints.layout import Array, Plan, Shapes, in_input_order, refuse_modules
from ovround.models.decoder import EMBEDDING
from ovround.tensors.packing import pack_words
from ovround.tensors.qtensor import QTensor
from ovround.tensors.reexpression import widened
from ovround.tensors.scheme import QuantScheme


class Format:
    """Any groups and symmetry, sizes that fill no word, a head, and activation order; no embedding."""

    def __init__(self, plan: Plan, shapes: Shapes) -> None:
        refuse_modules("compressed-tensors", plan, EMBEDDING)
        self._ordered: set[str] = set()

    def stored(self, tensor: QTensor) -> QTensor:
        return widened(tensor, max(tensor.bits, 4))

    def encode(self, module: str, tensor: QTensor) -> Mapping[str, Array]:
        codes, groups = in_input_order(tensor)
        parts: dict[str, Array] = {
            "weight_packed": pack_words(codes, tensor.bits),
            "weight_scale": tensor.scales,
            "weight_shape": np.array(tensor.shape, np.int64),
        }
        if tensor.zero_points is not None:
            parts["weight_zero_point"] = transposed(pack_words(transposed(tensor.zero_points), tensor.bits))
        if tensor.order is not None:
            self._ordered.add(module)
            parts["weight_g_idx"] = groups
        return parts

    def rest(self) -> Iterable[tuple[str, Array]]:
        return ()

    def settings(self, schemes: Mapping[str, QuantScheme], floats: Iterable[str]) -> dict[str, Any]:
        kinds: dict[tuple[QuantScheme, bool], list[str]] = {}
        for module, scheme in schemes.items():
            kinds.setdefault((scheme, module in self._ordered), []).append(module)
        general = max(kinds, key=lambda kind: len(kinds[kind]))
        # the first group that names a module gives its scheme, so exceptions stand before the class of all
        ordered = sorted(kinds, key=lambda kind: kind == general)
        return {
            "quant_method": "compressed-tensors", "format": "pack-quantized", "quantization_status": "compressed",
            "config_groups": {
                f"group_{number}": _group(*kind, ["Linear"] if kind == general else kinds[kind])
                for number, kind in enumerate(ordered)
            },
            "ignore": [*floats], "kv_cache_scheme": None, "global_compression_ratio": None,
        }  # fmt: skip


def _group(scheme: QuantScheme, ordered: bool, targets: list[str]) -> dict[str, Any]:
    whole = scheme.group_size == -1
    weights = {
        "num_bits": scheme.bits, "type": "int", "symmetric": scheme.symmetric, "dynamic": False, "observer": "minmax",
        "strategy": "channel" if whole else "group", "group_size": None if whole else scheme.group_size,
        "actorder": "group" if ordered else None, "block_structure": None, "observer_kwargs": {},
    }  # fmt: skip
    return {"targets": targets, "weights": weights, "input_activations": None, "output_activations": None}
