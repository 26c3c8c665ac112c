"""What a part keeps of the tokens before, from one step to the next, declared as data.

Exporters make inputs, outputs or variables of it, and engines carry it, without knowing what it means.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, slots=True)
class State:
    """A tensor `[B, *shape]` of one layer, zeros before the first token.

    `grows` is the axis of `shape` that a step makes longer by its tokens; its size there is 0. A key/value cache grows. It
    rewinds by cutting off what is beyond a length. Without `grows` the size is fixed: a recurrent state, a convolution's
    tail. It goes back to a copy only, and the tokens after that are computed again. `dtype` float32 stays that where
    activations are shorter.
    """

    name: str
    shape: tuple[int, ...]
    grows: int | None = None
    dtype: Literal["activations", "float32"] = "activations"

    def __post_init__(self) -> None:
        if self.grows is not None and self.shape[self.grows] != 0:
            raise ValueError(f"state {self.name}: axis {self.grows} of {self.shape} grows; it has to be 0")

    @property
    def rewinds(self) -> bool:
        """Whether the newest tokens can be taken back."""
        return self.grows is not None

    def past(self, layer: int) -> str:
        """The graph's name of what a step reads. onnxruntime-genai and openvino_genai chose that of states that grow."""
        return f"past_{'key_values' if self.rewinds else 'state'}.{layer}.{self.name}"

    def present(self, layer: int) -> str:
        """The graph's name of what a step leaves."""
        return f"present{'' if self.rewinds else '_state'}.{layer}.{self.name}"
