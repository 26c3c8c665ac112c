"""How many calibration tokens each expert gets to see: one that sees none cannot be tuned, and the user is told."""

from __future__ import annotations

from collections.abc import Mapping

import torch

from ovround.models.ops import Experts
from ovround.models.torch_ops import TorchOps


class ExpertTokens(TorchOps):
    """Computes like TorchOps, and counts in `tokens` `[E]`, by module, what is sent to each expert."""

    def __init__(self, weights: Mapping[str, torch.Tensor], activation_groups: Mapping[str, int] | None = None) -> None:
        super().__init__(weights, activation_groups=activation_groups)
        self.tokens: dict[str, torch.Tensor] = {}

    def routed(self, x: torch.Tensor, at: str, spec: Experts) -> tuple[torch.Tensor, torch.Tensor]:
        weights, chosen = super().routed(x, at, spec)
        count = torch.bincount(chosen.flatten(), minlength=spec.count).float()  # processes add up float32
        self.tokens[at] = self.tokens[at] + count if at in self.tokens else count
        return weights, chosen

    def unreached(self) -> tuple[str, ...]:
        """The experts without a token, as their modules are called."""
        return tuple(
            f"{at}.experts.{expert}"
            for at, tokens in self.tokens.items()
            for expert, count in enumerate(tokens.tolist())
            if not count
        )
