"""`TuningSettings`: how a conversion is tuned, with every default decided."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

FEW_BITS = 3
"""Up to so many bits a few large errors decide a block's loss, and the robust loss leaves them out by default."""


@dataclass(frozen=True, slots=True)
class TuningSettings:
    """The settings of the passes over a model: recipes, None and the model's size are resolved already.

    `iters` steps a block on batches of `batch_size` of the `nsamples` samples tune `block_group_size` consecutive blocks jointly;
    `end_to_end_steps` and `pv_steps` over the whole model follow, 0 for none. The robust loss is used for weights of at most
    `robust_loss_max_bits`. `activation_engine` rounds activations as that engine does while tuning.
    """

    iters: int
    nsamples: int
    batch_size: int
    seed: int
    end_to_end_steps: int
    pv_steps: int
    pv_changes: float
    straight_through: bool
    initial_grid: Literal["extremes", "search", "compensated", "descent"]
    optimizer: Literal["adam", "sign"]
    scales: Literal["free", "clipped"]
    robust_loss_max_bits: int
    norms: bool
    label_share: float
    block_group_size: int
    embeddings: Literal["tuned", "rounded"]
    learn_codes: bool
    activation_engine: Literal["none", "openvino", "onnx"]
    device: str
    compile: bool
