"""AutoRound folders, as auto-round, vLLM and SGLang read them; the layouts are described in `checkpoint.formats.auto_round`.

Symmetric weights are packed as `auto_round:auto_gptq`, auto_round's own choice. Its readers take asymmetric ones in
`auto_round:gptqmodel`, which holds every zero point, so a folder with any of them is packed so.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

from ovround.exporters.checkpoints.gptq import stream_codes, stream_zeros, transposed
from ovround.exporters.checkpoints.layout import (
    Array,
    Plan,
    Shapes,
    check_words,
    most_common,
    quantised,
    refuse_order,
)
from ovround.models.decoder import EMBEDDING, HEAD
from ovround.tensors.qtensor import QTensor
from ovround.tensors.scheme import QuantScheme


class Format:
    """Any bits, groups and symmetry, and a head; no embedding, no activation order."""

    def __init__(self, plan: Plan, shapes: Shapes) -> None:
        check_words("auto_round", plan, shapes, EMBEDDING)
        self._version = 1 if all(scheme.symmetric for scheme in quantised(plan).values()) else 2

    def stored(self, tensor: QTensor) -> QTensor:
        return tensor

    def encode(self, module: str, tensor: QTensor) -> Mapping[str, Array]:
        refuse_order("auto_round", module, tensor)
        return {
            "qweight": stream_codes(tensor.codes, tensor.bits),
            "qzeros": stream_zeros(tensor, self._version),
            "scales": transposed(tensor.scales),
        }

    def rest(self) -> Iterable[tuple[str, Array]]:
        return ()

    def settings(self, schemes: Mapping[str, QuantScheme], floats: Iterable[str]) -> dict[str, Any]:
        general = most_common(schemes)
        exceptions: dict[str, dict[str, Any]] = {module: {"bits": 16} for module in floats if module != HEAD}
        exceptions |= {
            module: _plain(scheme) for module, scheme in schemes.items() if scheme != general or module == HEAD
        }
        return {
            "quant_method": "auto-round", **_plain(general),
            "packing_format": "auto_round:auto_gptq" if self._version == 1 else "auto_round:gptqmodel",
            "block_name_to_quantize": _blocks(schemes),
            **({"extra_config": exceptions} if exceptions else {}),
        }  # fmt: skip


def _blocks(modules: Iterable[str]) -> str:
    """The name of the list of blocks that quantised modules are in, `model.layers` for most families."""
    found = (match[1] for module in modules if (match := re.match(r"(.+?)\.\d+\.", module)))
    return next(found, "model.layers")


def _plain(scheme: QuantScheme) -> dict[str, Any]:
    return {"bits": scheme.bits, "group_size": scheme.group_size, "sym": scheme.symmetric, "data_type": "int"}
