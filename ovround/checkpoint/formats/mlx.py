"""Checkpoints that mlx-lm quantised: read as the numbers that they stand for.

    NAME.weight  U32 [..., N, K * bits / 32]   levels of 2 to 8 bits, one stream of bits a row, the lowest first
    NAME.scales  float [..., N, K / group]
    NAME.biases  float [..., N, K / group]     W = level * scale + bias

config.json states `quantization`: {"group_size": 64, "bits": 4}, with an entry of its own for each module that has other
values. Its numbers are those of a scheme with a float minimum a group, which no grid of an engine holds. Source: mlx 0.29,
mlx.core.quantize, and mlx-lm's utils.py.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ovround.checkpoint.files.element_types import FLOAT_TYPES, TensorInfo, as_float
from ovround.checkpoint.formats.stored_weight import DecodedCheckpoint, Parts, StoredWeight, decoded
from ovround.checkpoint.hf import Checkpoint
from ovround.errors import CheckpointError, TensorError

_WIDTHS = (2, 3, 4, 5, 6, 8)
_GROUPS = (16, 32, 64, 128)
_DAMAGED = "the checkpoint is damaged, or of a format that is not known here"


@dataclass(frozen=True, slots=True)
class AffineLevels:
    """The weight of `module`, levels of `bits` with a scale and a bias for each `group` inputs."""

    module: str
    shape: tuple[int, ...]
    bits: int
    group: int
    dtype: str = "F32"

    @property
    def kind(self) -> str:
        """The format and its width."""
        return f"MLX's {self.bits}-bit levels"

    @property
    def names(self) -> tuple[str, ...]:
        """The tensors that it is made of."""
        return (f"{self.module}.weight", *self.scale_names)

    @property
    def scale_names(self) -> tuple[str, ...]:
        """Scales and biases."""
        return (f"{self.module}.scales", f"{self.module}.biases")

    def check(self, parts: Parts) -> None:
        """Raise TensorError where the highest level would be no number."""
        scales, biases = (as_float(*parts[name]).float32() for name in self.scale_names)
        with np.errstate(over="ignore", invalid="ignore"):
            highest = scales * np.float32((1 << self.bits) - 1) + biases
        if not np.isfinite(highest).all():
            raise TensorError(f"`{self.module}.scales` has a scale with which a level is no number", hint=_DAMAGED)

    def values(self, parts: Parts) -> NDArray[np.float32]:
        """level * scale + bias in float32."""
        packed = np.ascontiguousarray(parts[f"{self.module}.weight"][0])
        bits = np.unpackbits(packed.view(np.uint8), axis=-1, bitorder="little")
        places = (1 << np.arange(self.bits, dtype=np.uint8)).astype(np.uint8)
        levels = (bits.reshape(*packed.shape[:-1], -1, self.bits) * places).sum(-1, dtype=np.uint8)
        scales, biases = (as_float(*parts[name]).float32()[..., None] for name in self.scale_names)
        grouped = levels.reshape(*levels.shape[:-1], -1, self.group).astype(np.float32)
        values: NDArray[np.float32] = (grouped * scales + biases).reshape(levels.shape)
        return values


def open_mlx(checkpoint: Checkpoint, settings: Mapping[str, Any]) -> DecodedCheckpoint:
    """`checkpoint` with its weights decoded as they are read; raises CheckpointError for a mode that is not affine."""
    mode = settings.get("mode", "affine")
    if mode != "affine":
        raise CheckpointError(
            f"`{checkpoint.folder}` is quantised by MLX in mode {mode!r:.20}; affine can be read",
            hint="start from the original checkpoint",
        )
    infos = {name: info for file in checkpoint.files for name, info in file.tensors.items()}
    weights: dict[str, StoredWeight] = {}
    for name in infos:
        module, _, last = name.rpartition(".")
        if last == "scales" and f"{module}.biases" in infos and f"{module}.weight" in infos:
            weights[f"{module}.weight"] = _levels(module, infos, settings)
    if not weights:
        raise CheckpointError(
            f"`{checkpoint.folder}` has no weight with scales and biases of MLX, which its config.json calls for",
            hint="quantization belongs to another model, or it lacks a quant_method: start from the original checkpoint",
        )
    found = decoded(checkpoint, weights)
    config = {key: value for key, value in found.config.items() if key != "quantization"}
    return DecodedCheckpoint(found.folder, config, found.files, weights=weights, hidden=found.hidden, notes=found.notes)


def _levels(module: str, infos: Mapping[str, TensorInfo], settings: Mapping[str, Any]) -> AffineLevels:
    own = settings.get(module)
    stated = {**settings, **(own if isinstance(own, Mapping) else {})}
    bits, group = stated.get("bits"), stated.get("group_size")
    if bits not in _WIDTHS or group not in _GROUPS:
        raise CheckpointError(
            f"config.json: quantization of `{module}` is {bits!r:.10} bits in groups of {group!r:.10}; "
            f"{_WIDTHS} and {_GROUPS} can be read"
        )
    levels, scales, biases = (infos[f"{module}.{part}"] for part in ("weight", "scales", "biases"))
    shape = (*levels.shape[:-1], levels.shape[-1] * 32 // bits)
    fits = levels.dtype == "U32" and len(shape) >= 2 and shape[-1] * bits == levels.shape[-1] * 32
    fits = fits and scales.shape == biases.shape == (*shape[:-1], shape[-1] // group) and shape[-1] % group == 0
    if not fits or scales.dtype not in FLOAT_TYPES or biases.dtype not in FLOAT_TYPES:
        raise TensorError(
            f"`{module}.weight` {levels.dtype} {list(levels.shape)} and its scales {list(scales.shape)} do not belong together "
            f"at {bits} bits in groups of {group}",
            hint=_DAMAGED,
        )
    return AffineLevels(module, shape, bits, group)
