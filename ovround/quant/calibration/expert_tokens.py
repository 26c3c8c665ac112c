"""The number of calibration tokens that reach each expert. An expert without any cannot be tuned, which is reported."""

from __future__ import annotations

from collections.abc import Mapping

import torch

from ovround.models.ops import Experts
from ovround.models.torch_ops import TorchOps


class ExpertTokens(TorchOps):
    """Computes like TorchOps, and counts the tokens of each expert in `tokens`, `[E]` by module."""

    def __init__(self, weights: Mapping[str, torch.Tensor], activation_groups: Mapping[str, int] | None = None) -> None:
        super().__init__(weights, activation_groups=activation_groups)
        self.tokens: dict[str, torch.Tensor] = {}

    def routed(self, x: torch.Tensor, at: str, spec: Experts) -> tuple[torch.Tensor, torch.Tensor]:
        weights, chosen = super().routed(x, at, spec)
        count = torch.bincount(chosen.flatten(), minlength=spec.count).float()  # float32, which processes can sum
        self.tokens[at] = self.tokens[at] + count if at in self.tokens else count
        return weights, chosen

    def unreached(self) -> tuple[str, ...]:
        """The module names of experts without a token."""
        return tuple(
            f"{at}.experts.{expert}"
            for at, tokens in self.tokens.items()
            for expert, count in enumerate(tokens.tolist())
            if not count
        )
