"""AutoRound checkpoints: the layouts of GPTQ and AWQ under one configuration with exceptions by name or regular expression.

| packing_format | layout |
|---|---|
| auto_round:auto_gptq, auto_round:gptq, none | GPTQ, zero points less 1 |
| auto_round, auto_round:gptqmodel | GPTQ, zero points as they are |
| auto_round:auto_awq, auto_round:awq | AWQ |

Symmetric scales are signed: the larger extreme of a group lies on the lowest level.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ovround.checkpoint.formats.awq import AWQ_BITS, awq_parts, decode_awq
from ovround.checkpoint.formats.gptq import decode_stream, stream_parts
from ovround.checkpoint.formats.packed import Array, Part, Rule, compiled, read_scheme
from ovround.errors import CheckpointError
from ovround.tensors.qtensor import BITS, QTensor
from ovround.tensors.scheme import QuantScheme

AWQ = 0
PACKINGS = {  # the version of GPTQ's layout, or AWQ
    "auto_round:auto_gptq": 1, "auto_round:gptq": 1, "auto_round": 2, "auto_round:gptqmodel": 2,
    "auto_round:auto_awq": AWQ, "auto_round:awq": AWQ,
}  # fmt: skip
_GRID = ("bits", "group_size", "sym")
_FLOAT_ACTIVATIONS = 16


class Format:
    """A folder of auto_round: an exact name in `extra_config` goes before the first regular expression that is found."""

    mark = "qweight"

    def __init__(self, quantization: Mapping[str, Any]) -> None:
        packing = str(quantization.get("packing_format") or "auto_round:auto_gptq")
        if packing not in PACKINGS:
            raise CheckpointError(
                f"quantization_config: packing_format is `{packing:.60}`; {', '.join(PACKINGS)} can be read"
            )
        self._version = PACKINGS[packing]
        self._general = dict(quantization)
        extra = quantization.get("extra_config") or {}
        if not isinstance(extra, Mapping) or not all(isinstance(value, Mapping) for value in extra.values()):
            raise CheckpointError("quantization_config: extra_config is no object of objects")
        self._exact: Mapping[str, Mapping[str, Any]] = extra
        self._rules = [Rule(compiled(key), value) for key, value in extra.items() if value]
        self._check(self._general, "the model")

    def scheme(self, module: str) -> QuantScheme | None:
        settings = self._exact.get(module)
        if settings is None:
            rule = next((rule for rule in self._rules if rule.pattern.search(module)), None)
            settings = {} if rule is None else rule.settings
        merged = {**self._general, **settings}
        scheme = read_scheme(
            {key: merged[key] for key in _GRID if key in merged},
            BITS if self._version != AWQ else AWQ_BITS,
            symmetric="sym",
            where=f"`{module}`",
        )
        if scheme is not None:
            self._check(merged, f"`{module}`")
        return scheme

    def parts(self, module: str, shape: tuple[int, int]) -> Mapping[str, Part]:
        scheme = self.scheme(module)
        return awq_parts(scheme, shape) if self._version == AWQ else stream_parts(scheme, shape)

    def decode(self, module: str, shape: tuple[int, int], arrays: Mapping[str, Array]) -> QTensor:
        scheme = self.scheme(module)
        if self._version == AWQ:
            return decode_awq(scheme, shape, arrays)
        return decode_stream(scheme, shape, arrays, version=self._version, wraps=True)

    def _check(self, settings: Mapping[str, Any], where: str) -> None:
        data_type = settings.get("data_type", "int")
        if data_type != "int":
            raise CheckpointError(
                f"quantization_config: data_type of {where} is `{data_type!s:.40}`; int can be read",
                hint="start from the original checkpoint",
            )
        act_bits = settings.get("act_bits")
        if isinstance(act_bits, int) and act_bits < _FLOAT_ACTIVATIONS:
            raise CheckpointError(
                f"quantization_config: act_bits of {where} are {act_bits}; weights alone can be read",
                hint="start from the original checkpoint",
            )
