"""`Xielu` by torch."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F

from ovround.models.parts.dense import Xielu
from ovround.models.torch_ops import TorchOps


def compute(ops: TorchOps, verb: Xielu, inputs: Sequence[torch.Tensor], layer: int) -> torch.Tensor:
    """Any shape -> the same."""
    x = inputs[0]
    positive, negative = (
        F.softplus(ops.weights[f"{verb.at}.{name}"].float()).to(x.dtype) for name in ("alpha_p", "alpha_n")
    )
    return positive * F.relu(x).square() + (verb.beta + negative) * (F.elu(x) - x) + verb.beta * x
