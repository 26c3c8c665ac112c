"""GPTQ folders, as GPTQModel, vLLM and onnxruntime-genai's builder read them; the layout is described in `checkpoint.formats.gptq`.

Version 1 is written, which every reader knows, unless a zero point is 0: version 1 cannot hold that, and all of the folder is
version 2. Zero points are small, and wait until all are known.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np

from ovround.exporters.checkpoints.layout import (
    Array,
    Plan,
    Shapes,
    check_words,
    in_input_order,
    most_common,
)
from ovround.models.decoder import EMBEDDING, HEAD
from ovround.tensors.packing import pack_words
from ovround.tensors.qtensor import QTensor
from ovround.tensors.scheme import QuantScheme


class Format:
    """Any bits, groups and symmetry, activation order, and a head; no embedding."""

    def __init__(self, plan: Plan, shapes: Shapes) -> None:
        check_words("gptq", plan, shapes, EMBEDDING)
        self._zeros: dict[str, QTensor] = {}
        self._ordered = False

    def stored(self, tensor: QTensor) -> QTensor:
        return tensor

    def encode(self, module: str, tensor: QTensor) -> Mapping[str, Array]:
        codes, groups = in_input_order(tensor)
        self._ordered |= tensor.order is not None
        self._zeros[module] = _zeros_only(tensor)
        return {"qweight": stream_codes(codes, tensor.bits), "scales": transposed(tensor.scales), "g_idx": groups}

    def rest(self) -> Iterator[tuple[str, Array]]:
        version = self._version()
        for module, tensor in self._zeros.items():
            yield f"{module}.qzeros", stream_zeros(tensor, version)

    def settings(self, schemes: Mapping[str, QuantScheme], floats: Iterable[str]) -> dict[str, Any]:
        general = most_common(schemes)
        dynamic: dict[str, dict[str, Any]] = {f"-:{pattern(module)}": {} for module in floats if module != HEAD}
        dynamic |= {f"+:{pattern(module)}": _plain(scheme) for module, scheme in schemes.items() if scheme != general}
        return {
            "quant_method": "gptq", **_plain(general), "desc_act": self._ordered, "static_groups": False,
            "lm_head": HEAD in schemes, "true_sequential": False, "damp_percent": 0.01,
            # no `meta`: transformers takes it for a sign of version 2 when auto-round is to load the folder
            "checkpoint_format": "gptq" if self._version() == 1 else "gptq_v2",
            **({"dynamic": dynamic} if dynamic else {}),
        }  # fmt: skip

    def _version(self) -> int:
        return 1 if all(int(tensor.zeros().min(initial=1)) > 0 for tensor in self._zeros.values()) else 2


def pattern(module: str) -> str:
    """A regular expression for `module` and its tensors: some readers match the one, some the other."""
    return re.escape(module) + r"(\.|$)"


def stream_codes(codes: Array, bits: int) -> Array:
    """Codes `[N, K]` as qweight `[K * bits / 32, N]`."""
    return transposed(pack_words(codes, bits))


def stream_zeros(tensor: QTensor, version: int) -> Array:
    """Zero points `[N, G]` as qzeros `[G, N * bits / 32]`, less 1 in version 1."""
    return pack_words(transposed(tensor.zeros()) - np.uint8(version == 1), tensor.bits)


def transposed(values: Array) -> Array:
    return np.ascontiguousarray(values.T)


def _zeros_only(tensor: QTensor) -> QTensor:
    """`tensor` without its codes."""
    return QTensor(np.zeros(tensor.scales.shape, np.uint8), tensor.scales, tensor.zero_points, tensor.bits)


def _plain(scheme: QuantScheme) -> dict[str, Any]:
    return {"bits": scheme.bits, "group_size": scheme.group_size, "sym": scheme.symmetric}
