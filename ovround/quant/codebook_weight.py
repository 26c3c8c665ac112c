"""A weight made of codebooks under tuning, and what is tuned beside it: norms.

Codes stand; entries and row scales move by Adam, for the error is smooth in them. What is rounded to float16 in the end is
rounded so all along, gradients passing unchanged.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from ovround.codebooktensor import CodebookTensor
from ovround.config import Codebooks
from ovround.errors import TensorError
from ovround.floattensor import FloatTensor, FloatType
from ovround.quant.adam import Adam
from ovround.quant.codebook_start import Additive

# How far tuning a block may move an entry, by the root mean square of its codebook; a scale, by its size; a norm, likewise.
ENTRY_TRAVEL, SCALE_TRAVEL, NORM_TRAVEL = 1.5, 0.2, 0.1


class CodebookWeight:
    """`codes` int64 `[N, G, M]`, `books` M parameters `[entries, vector]`, and a factor `[N, 1]` on each row's scale."""

    def __init__(self, name: str, start: Additive, layout: Codebooks) -> None:
        self.name, self.bits, self.layout = name, layout.code_bits, layout
        self.codes = start.codes
        self.books = [book.clone().requires_grad_() for book in start.codebooks]
        self.scale = start.scales[:, None].clone()
        self.factor = torch.ones_like(self.scale, requires_grad=True)
        self._adam: Adam | None = None

    @classmethod
    def resumed(
        cls, name: str, tensor: CodebookTensor, layout: Codebooks, device: torch.device | str = "cpu"
    ) -> CodebookWeight:
        """From a finished weight, to continue."""
        parts = (tensor.codes.astype(np.int64), tensor.codebooks.astype(np.float32), tensor.scales.astype(np.float32))
        codes, books, scales = (torch.from_numpy(part).to(device) for part in parts)
        return cls(name, Additive(codes, books.squeeze(2), scales), layout)

    @property
    def parameters(self) -> tuple[torch.Tensor, ...]:
        return (*self.books, self.factor)

    @property
    def state(self) -> tuple[torch.Tensor, ...]:
        return (*self.parameters, self.codes)

    @property
    def shape(self) -> tuple[int, int]:
        """(N, K)."""
        return self.codes.shape[0], self.codes.shape[1] * self.layout.vector_size

    def travels(self, entries: float, scales: float) -> list[float]:
        """What Adam may move each parameter by: shares of the codebooks' root mean square, and of the scales."""
        return [*(entries * float(book.detach().square().mean().sqrt()) for book in self.books), scales]

    def entries(self) -> list[torch.Tensor]:
        """The codebooks as they will be stored, float16 values."""
        return [_half(book) for book in self.books]

    def scales(self) -> torch.Tensor:
        """`[N, 1]`, likewise."""
        return _half(self.scale * self.factor)

    def fake_quantized(self) -> torch.Tensor:
        vectors = [
            torch.nn.functional.embedding(self.codes[..., number], book) for number, book in enumerate(self.entries())
        ]
        return sum(vectors[1:], vectors[0]).flatten(1) * self.scales()

    def step(self, rate: float) -> None:
        if self._adam is None:
            self._adam = Adam(self.parameters, self.travels(ENTRY_TRAVEL, SCALE_TRAVEL))
        self._adam.step(rate)

    def bound(self) -> None:
        """Entries and scales may go anywhere."""

    @torch.no_grad()
    def result(self) -> CodebookTensor:
        books = torch.stack(self.entries()).unsqueeze(2)
        scales = self.scales().squeeze(1)
        if not bool(torch.isfinite(books).all() and torch.isfinite(scales).all()):
            raise TensorError(
                f"`{self.name}` has values so large that a float16 scale overflows",
                hint=f"--layer '{self.name}=bits:16' leaves it in float",
            )
        return CodebookTensor(
            self.codes.cpu().numpy().astype(np.uint16), books.half().cpu().numpy(), scales.half().cpu().numpy()
        )

    def offsets(self) -> NDArray[np.int8] | None:
        return None  # there is nothing between two codes


class TunedNorm:
    """The gain of a norm `[K]`, which stays in float, in the checkpoint's type."""

    bits = 16.0

    def __init__(self, name: str, values: torch.Tensor, dtype: FloatType) -> None:
        self.name, self._dtype = name, dtype
        self.values = values.clone().requires_grad_()
        self._adam = Adam([self.values], [NORM_TRAVEL * float(values.abs().mean())])

    @property
    def parameters(self) -> tuple[torch.Tensor, ...]:
        return (self.values,)

    @property
    def state(self) -> tuple[torch.Tensor, ...]:
        return (self.values,)

    def fake_quantized(self) -> torch.Tensor:
        return self.values

    def step(self, rate: float) -> None:
        self._adam.step(rate)

    @torch.no_grad()
    def result(self) -> FloatTensor:
        return FloatTensor.of(self.values.cpu().numpy(), self._dtype)

    def offsets(self) -> NDArray[Any] | None:
        return None


def _half(values: torch.Tensor) -> torch.Tensor:
    """Rounded to float16; the gradient passes unchanged."""
    return values + (values.detach().half().float() - values.detach())
