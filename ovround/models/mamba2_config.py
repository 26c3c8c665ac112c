"""The keys of config.json by which families describe Mamba 2, and where their checkpoints keep it."""

from __future__ import annotations

import math
from typing import Any

from ovround.errors import ArchitectureError
from ovround.models.config_reader import ConfigReader
from ovround.models.layout import Fused, fused_rows
from ovround.models.parts.causal_convolution import CausalConvolution
from ovround.models.parts.mamba2 import Mamba2
from ovround.models.parts.selective_scan import SelectiveScan
from ovround.models.standard import FULL, StandardParts

LINEAR = "linear_attention"
_OLD_KINDS = {"mamba": LINEAR, "attention": FULL}  # in checkpoints from before transformers 5


def read_mamba2(
    read: ConfigReader,
    parts: StandardParts,
    *,
    size: int | None = None,
    groups: int = 1,
    state_size: int = 256,
    least_step: float | None = None,
) -> Mamba2:
    """The mixer of the `mamba_` keys, which a family may spell otherwise.

    `size` is that of x where the family states it, `least_step` takes the place of `time_step_limit`. Raises
    ArchitectureError where the sizes do not fit each other.
    """
    hidden, heads = parts.config.hidden_size, read.integer("mamba_n_heads", 128)
    size = read.integer("mamba_expand", 2) * hidden if size is None else size
    spelled, head_dim = read.value("mamba_d_head")
    head_dim = size // max(heads, 1) if head_dim in (None, "auto") else read.integer("mamba_d_head")
    if heads * head_dim != size:
        raise ArchitectureError(
            f"config.json: `{spelled}` is {head_dim}; {heads} heads of it are not the {size} features"
        )
    limits = _limits(read) if least_step is None else (least_step, math.inf)
    scan = SelectiveScan(
        "", heads, head_dim, read.integer("mamba_n_groups", groups), read.integer("mamba_d_state", state_size), limits
    )
    convolution = CausalConvolution(
        "conv1d", sum(scan.joined_sizes), read.integer("mamba_d_conv", 4), read.flag("mamba_conv_bias", default=True)
    )
    bias = read.flag("mamba_proj_bias", default=False)
    activation = parts.mlp.activation  # of the convolution too
    return Mamba2(hidden, scan, convolution, parts.norm.eps, bias=bias, output_bias=bias, activation=activation)


def _limits(read: ConfigReader) -> tuple[float, float]:
    """`time_step_limit`, whose upper one is often infinite: JSON's Infinity, or as transformers 5 writes it."""
    name, value = read.value("time_step_limit")
    if value is None:
        return 0.0, math.inf
    numbers = [_number(limit) for limit in value] if isinstance(value, list) else []
    if len(numbers) != 2 or any(number is None for number in numbers):
        raise ArchitectureError(
            f"config.json: `{name}` is {value!r:.40}; two numbers are needed, the least and the most"
        )
    least, most = (number for number in numbers if number is not None)
    return least, most


def _number(value: Any) -> float | None:
    if isinstance(value, dict):
        value = value.get("__float__")
        return math.inf if value == "Infinity" else None
    usable = isinstance(value, (int, float)) and not isinstance(value, bool) and not math.isnan(value)
    return float(value) if usable else None


def read_kinds(read: ConfigReader, layers: int, *more: str) -> tuple[str, ...] | None:
    """`LINEAR`, `FULL` or one of `more` for each layer as `layer_types` says; None without that key."""
    kinds = read.words("layer_types", layers, (LINEAR, FULL, *_OLD_KINDS, *more))
    return None if kinds is None else tuple(_OLD_KINDS.get(kind, kind) for kind in kinds)


def mamba_modules(mixer: Mamba2, ours: str = "mamba", stored: str = "mamba") -> dict[str, str | Fused]:
    """Where a checkpoint whose mixer is the module `stored` keeps that of our module `ours`."""
    sizes = mixer.scan.size, sum(mixer.scan.joined_sizes), mixer.scan.heads
    names = (f"{ours}.{name}_proj" for name in ("z", "xbc", "dt"))
    own = {f"{ours}{inside}": f"{stored}{inside}" for inside in ("", ".conv1d", ".norm", ".out_proj")}
    return {**own, **dict(zip(names, fused_rows(f"{stored}.in_proj", *sizes), strict=True))}
