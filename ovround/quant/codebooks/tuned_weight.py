"""A weight made of codebooks under tuning, and norms, which are tuned beside it.

Entries and row scales move by Adam, since the error is smooth in them. Codes are learned as SignRound learns levels: each vector
has a latent offset from its sum of entries, which moves by the sign of the straight-through gradient. Where another entry becomes
the nearest to the resulting point, the code changes to it, and the offset is measured from there. An entry that moves takes its
vectors and their offsets with it, so no code changes for that alone. Values that are stored in float16 are rounded to it all
along; gradients pass unchanged.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from ovround.errors import TensorError
from ovround.quant.codebooks.fit import DAMPING
from ovround.quant.codebooks.kmeans import LARGEST_DISTANCES, Additive
from ovround.quant.passes.optimizer import Adam
from ovround.tensors.codebook_tensor import CodebookTensor
from ovround.tensors.float_tensor import FloatTensor, FloatType
from ovround.tensors.scheme import Codebooks

# The unit of a latent offset is the mean distance of an entry's vectors to the next entry, per dimension.
CODE_TRAVEL = 2.0  # units that tuning a block may move an offset, as it may move a level by 1
OFFSET_STEPS = 128  # an offset is stored in steps of 1/128 of a unit, up to one unit
LEARNED_BITS = 10  # codes of more bits stay fixed: each step would compare each moved vector with too many entries
# How far the tuning of a block may move an entry (by the root mean square of its codebook), a scale and a norm (by their size).
ENTRY_TRAVEL, SCALE_TRAVEL, NORM_TRAVEL = 1.5, 0.2, 0.1


class CodebookWeight:
    """`codes` int64 `[N, G, M]`, `books` M parameters `[entries, vector]`, and a factor `[N, 1]` on each row's scale.

    `offset` `[N, K]` is in row scales, as the entries are; None where codes stay fixed.
    """

    def __init__(self, name: str, start: Additive, layout: Codebooks, learn_codes: bool = True) -> None:
        self.name, self.bits, self.layout = name, layout.code_bits, layout
        self.codes = start.codes
        self.books = [book.clone().requires_grad_() for book in start.codebooks]
        self.scale = start.scales[:, None].clone()
        self.factor = torch.ones_like(self.scale, requires_grad=True)
        self._adam: Adam | None = None
        self.offset: torch.Tensor | None = None
        if learn_codes and layout.bits <= LEARNED_BITS:
            self.offset = torch.zeros(self.shape, device=self.scale.device).requires_grad_()
        self.unit = min(self._unit(number) for number in range(layout.count))

    @classmethod
    def resumed(
        cls,
        name: str,
        tensor: CodebookTensor,
        offsets: NDArray[np.int8] | None,
        layout: Codebooks,
        device: torch.device | str = "cpu",
        learn_codes: bool = True,
    ) -> CodebookWeight:
        """From a finished weight and its `offsets`, to continue where they were taken; None: from the entries themselves."""
        parts = (tensor.codes.astype(np.int64), tensor.codebooks.astype(np.float32), tensor.scales.astype(np.float32))
        codes, books, scales = (torch.from_numpy(part).to(device) for part in parts)
        weight = cls(name, Additive(codes, books.squeeze(2), scales), layout, learn_codes)
        if weight.offset is not None and offsets is not None:
            with torch.no_grad():
                weight.offset.copy_(torch.from_numpy(offsets).to(device)).mul_(weight.unit / OFFSET_STEPS)
        return weight

    @torch.no_grad()
    def init_offsets(self, weight: torch.Tensor, hessian: torch.Tensor | None) -> None:
        """Set each offset in the direction of the least output error, all else fixed; no code changes yet.

        `weight` `[N, K]` is the original, `hessian` X^T X `[K, K]`. Codes that are close to changing then change first.
        """
        if self.offset is None or hessian is None or not bool(hessian.diagonal().any()):
            return
        size = self.layout.vector_size
        damped = hessian / hessian.diagonal().mean()
        damped.diagonal().add_(DAMPING)
        residual = weight - self.fake_quantized()
        product = (residual @ damped).view(len(residual), -1, size)
        own = torch.stack([damped[at : at + size, at : at + size] for at in range(0, len(damped), size)])
        aim = torch.linalg.solve(own, product.permute(1, 2, 0)).permute(2, 0, 1).reshape(self.shape) / self.scales()
        offset = aim.clamp_(-self.unit / 2, self.unit / 2).view(*self.codes.shape[:2], size)
        length = offset.norm(dim=-1, keepdim=True).clamp_min_(torch.finfo(torch.float32).tiny)
        offset.mul_((self._reach()[..., None] / length).clamp_max_(1))
        self.offset.copy_(offset.view(self.shape))

    @property
    def smooth(self) -> tuple[torch.Tensor, ...]:
        """The parameters that the error is smooth in."""
        return (*self.books, self.factor)

    @property
    def parameters(self) -> tuple[torch.Tensor, ...]:
        return self.smooth if self.offset is None else (*self.smooth, self.offset)

    @property
    def state(self) -> tuple[torch.Tensor, ...]:
        return (*self.parameters, self.codes)

    @property
    def shape(self) -> tuple[int, int]:
        """(N, K)."""
        return self.codes.shape[0], self.codes.shape[1] * self.layout.vector_size

    def travels(self, entries: float, scales: float) -> list[float]:
        """How far Adam may move each of `smooth`: shares of the codebooks' root mean square, and of the scales."""
        return [*(entries * float(book.detach().square().mean().sqrt()) for book in self.books), scales]

    def entries(self) -> list[torch.Tensor]:
        """The codebooks as they are stored, float16 values."""
        return [_half(book) for book in self.books]

    def scales(self) -> torch.Tensor:
        """`[N, 1]`, likewise."""
        return _half(self.scale * self.factor)

    def fake_quantized(self, dtype: torch.dtype = torch.float32) -> torch.Tensor:
        vectors = [
            torch.nn.functional.embedding(self.codes[..., number], book) for number, book in enumerate(self.entries())
        ]
        unscaled = sum(vectors[1:], vectors[0]).flatten(1)
        if self.offset is not None:
            unscaled = unscaled + (self.offset - self.offset.detach())  # zero; it only carries the gradient
        return (unscaled * self.scales()).to(dtype)

    def latent(self) -> torch.Tensor:
        """The points `[N, K]` that the codes are the nearest to."""
        value = self.fake_quantized()
        return value if self.offset is None else value + self.offset * self.scales()

    def step(self, rate: float) -> None:
        self.move_codes(CODE_TRAVEL * rate)
        if self._adam is None:
            self._adam = Adam(self.smooth, self.travels(ENTRY_TRAVEL, SCALE_TRAVEL))
        self._adam.step(rate)

    @torch.no_grad()
    def move_codes(self, units: float) -> None:
        """Move every offset by `units` against the sign of its gradient, and take the entries that are nearest then."""
        if self.offset is None or self.offset.grad is None:
            return
        self.offset.sub_(self.offset.grad.sign_(), alpha=units * self.unit)
        self.offset.grad = None
        self._recode(self.offset)

    @torch.no_grad()
    def _recode(self, offset: torch.Tensor) -> None:
        """Change each code to another entry where that is nearer to the point.

        A vector whose offset is shorter than half the distance to the next entry, in every codebook, is skipped.
        """
        books, size = torch.stack(self.entries()).detach(), self.layout.vector_size
        offsets, codes = offset.detach().view(-1, size), self.codes.view(-1, self.layout.count)
        far = (offsets.square().sum(1) > self._reach().flatten().square()).nonzero().flatten()
        for rows in far.split(LARGEST_DISTANCES // books.shape[1]):
            chosen, left = codes[rows], offsets[rows]
            for number, book in enumerate(books):
                point = left + book[chosen[:, number]]
                nearest = torch.addmm(book.square().sum(1), point, book.T, alpha=-2).argmin(1)
                left = point - book[nearest]
                chosen[:, number] = nearest
            codes[rows], offsets[rows] = chosen, left

    def _reach(self) -> torch.Tensor:
        """Half the distance from each vector's entry to the next one, the shortest of all codebooks, `[N, G]`."""
        distances = [_gaps(book.detach())[self.codes[..., number]] for number, book in enumerate(self.entries())]
        return torch.stack(distances).amin(0) / 2

    def _unit(self, number: int) -> float:
        """The unit of one codebook: the mean distance from a vector's entry to the next one, per dimension."""
        gaps = _gaps(self.books[number].detach())[self.codes[..., number]]
        return float(gaps.nan_to_num(posinf=0.0).mean()) / math.sqrt(self.layout.vector_size)

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

    @torch.no_grad()
    def offsets(self) -> NDArray[np.int8] | None:
        """How far each point lies from the entries that were chosen, in OFFSET_STEPS parts of a unit; None where codes stay fixed."""
        if self.offset is None or not self.unit:
            return None
        steps = (self.offset * (OFFSET_STEPS / self.unit)).round_().clamp_(-127, 127).to(torch.int8)
        return np.asarray(steps.cpu().numpy())


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

    def fake_quantized(self, dtype: torch.dtype = torch.float32) -> torch.Tensor:
        return self.values.to(dtype)

    def step(self, rate: float) -> None:
        self._adam.step(rate)

    @torch.no_grad()
    def result(self) -> FloatTensor:
        return FloatTensor.of(self.values.cpu().numpy(), self._dtype)

    def offsets(self) -> NDArray[Any] | None:
        return None


def _gaps(book: torch.Tensor) -> torch.Tensor:
    """The distance from each entry to the nearest one that differs from it, `[entries]`."""
    if len(book) > 1 << LEARNED_BITS:
        return torch.zeros(len(book), device=book.device)
    distances = torch.cdist(book, book, compute_mode="donot_use_mm_for_euclid_dist")
    return torch.where(distances > 0, distances, torch.inf).amin(1)


def _half(values: torch.Tensor) -> torch.Tensor:
    """Rounded to float16; the gradient passes unchanged."""
    return values + (values.detach().half().float() - values.detach())
