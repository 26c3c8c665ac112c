"""The short causal convolution of recurrent mixers: each channel is convolved by itself over the last K tokens."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ovround.models.ops import Ops, T
from ovround.models.parts.part import check_size
from ovround.models.state import State

TAIL = "tail"
_LONGEST = 64  # tokens; models have 2 to 4


@dataclass(frozen=True, slots=True)
class CausalConvolution:
    """The verb: `[B, T, C]` -> `[B, T, C]`, y_t = sum over j of weight_j * x_(t - K + 1 + j), plus a bias, then silu.

    Several inputs stand side by side and have C features together. The module `at` has `{at}.weight` `[C, 1, K]` and, with
    `bias`, `{at}.bias` `[C]`. The last K - 1 inputs stay as the state `tail` `[C, K - 1]`; before the first token they are
    zeros. Padding stands to the left of a row that begins; OpenVINO's masks it itself.
    """

    at: str
    channels: int
    kernel_size: int
    bias: bool = False
    silu: bool = True
    name: str = "causal_convolution"

    def __post_init__(self) -> None:
        check_size("channels of a convolution", self.channels)
        check_size("the convolution's kernel size less 1", self.kernel_size - 1, _LONGEST)

    def floats(self) -> dict[str, tuple[int, ...]]:
        """Name and shape of its tensors."""
        shapes: dict[str, tuple[int, ...]] = {f"{self.at}.weight": (self.channels, 1, self.kernel_size)}
        return shapes | ({f"{self.at}.bias": (self.channels,)} if self.bias else {})

    def states(self) -> tuple[State, ...]:
        """What it keeps between steps."""
        return (State(TAIL, (self.channels, self.kernel_size - 1)),)

    def forward(self, ops: Ops[T], x: T, layer: int, beside: Sequence[T] = ()) -> T:
        """`x` and what is `beside` it, C features together -> `[B, T, C]`."""
        return ops.call(self, (x, *beside), layer)
