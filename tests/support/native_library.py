"""Builds the operator of runtime/native once, and calls its kernels through ctypes."""

from __future__ import annotations

import ctypes
from dataclasses import dataclass
from pathlib import Path

import cpp_build
import numpy as np
from cpp_build import ROOT
from numpy.typing import NDArray

from ovround.tensors import native_layout as layout
from ovround.tensors.affine_tensor import AffineTensor
from ovround.tensors.codebook_tensor import CodebookTensor
from ovround.tensors.qtensor import QTensor

Floats = NDArray[np.float32]
ISAS = ("portable", "avx2", "avxvnni", "avx512", "avx512vbmi", "amx")


def built(folder: Path = ROOT / "build" / "native", *options: str) -> Path:
    """The build folder of runtime/native, brought up to date. Skips the test if there is no compiler."""
    cpp_build.need_programs()
    return cpp_build.built(ROOT / "runtime" / "native", folder, *options)


@dataclass(frozen=True, slots=True)
class Kernels:
    """`linear` for every kind of weight, with `threads` threads of its own."""

    library: ctypes.CDLL

    def has(self, isa: str) -> bool:
        return bool(self.library.ovround_has(ISAS.index(isa)))

    def linear(
        self,
        weight: CodebookTensor | QTensor | AffineTensor,
        x: NDArray[np.float32],
        isa: str,
        *,
        exact: bool = False,
        threads: int = 1,
        gated: bool = False,
    ) -> NDArray[np.float32]:
        """The product of x `[tokens, K]` with the weight, `[tokens, N]`; `gated` multiplies it by its silu."""
        y = np.full((len(x), weight.shape[0]), np.nan, np.float32)
        if isinstance(weight, AffineTensor):
            return self._affine(weight, x, y, isa, exact, threads, gated)
        if isinstance(weight, QTensor):
            scales = layout.halves_as_bytes(layout.pack_qparams(weight.scales))
            zeros = (
                np.array([1 << (weight.bits - 1)], np.uint8)
                if weight.symmetric
                else layout.pack_qparams(weight.zeros())
            )
            parts = [layout.pack_integers(weight.codes, weight.bits), scales, zeros]
            sizes: tuple[int, ...] = (*weight.shape, weight.scales.shape[1], weight.bits, weight.symmetric)
            call = self.library.ovround_gated_linear if gated else self.library.ovround_integer_linear
        else:
            codes = layout.pack_codes(weight.codes, weight.codebooks.shape[1])
            parts = [codes, layout.halves_as_bytes(weight.codebooks), layout.halves_as_bytes(weight.scales)]
            sizes = (*weight.shape, *weight.codebooks.shape)
            call = self.library.ovround_codebook_linear
        pointers = [part.ctypes.data_as(ctypes.c_void_p) for part in (*parts, x, y)]
        numbers = [ctypes.c_int64(size) for size in sizes]
        call(
            *pointers[:3], *numbers, pointers[3], ctypes.c_int64(len(x)), pointers[4], int(exact), ISAS.index(isa),
            ctypes.c_int64(threads),
        )  # fmt: skip
        return y

    def _affine(
        self, weight: AffineTensor, x: Floats, y: Floats, isa: str, exact: bool, threads: int, gated: bool
    ) -> Floats:
        zero_point = np.array([weight.zero_point], np.uint8)
        minimums = None if weight.minimums is None else layout.pack_group_values(weight.minimums)
        parts = (
            layout.pack_integers(weight.codes, weight.bits),
            layout.pack_group_values(weight.scales),
            zero_point,
            minimums,
        )
        sizes = *weight.shape, weight.scales.shape[1], weight.scales.blocks_a_row, weight.bits, gated
        pointers = [part if part is None else part.ctypes.data_as(ctypes.c_void_p) for part in (*parts, x, y)]
        numbers = [ctypes.c_int64(size) for size in sizes]
        self.library.ovround_affine_linear(
            *pointers[:4], *numbers, pointers[4], ctypes.c_int64(len(x)), pointers[5], int(exact), ISAS.index(isa),
            ctypes.c_int64(threads),
        )  # fmt: skip
        return y


def load_kernels(folder: Path) -> Kernels:
    return Kernels(ctypes.CDLL(str(folder / "libovround_kernels_c.so")))


def random_codebooks(
    shape: tuple[int, int], books: int = 2, entries: int = 256, vector: tuple[int, int] = (1, 8), seed: int = 0
) -> CodebookTensor:
    """A weight `[N, K]` with normal codebook entries; its values are about as large as 1 / sqrt(K)."""
    rng = np.random.default_rng(seed)
    rows, groups = shape[0] // vector[0], shape[1] // vector[1]
    codes = rng.integers(0, entries, (rows, groups, books)).astype(np.uint16)
    codebooks = rng.standard_normal((books, entries, *vector)).astype(np.float16)
    return CodebookTensor(codes, codebooks, (rng.uniform(0.5, 1.5, rows) / np.sqrt(shape[1])).astype(np.float16))


def random_integers(bits: int, shape: tuple[int, int], group_size: int, *, symmetric: bool, seed: int = 0) -> QTensor:
    rng = np.random.default_rng(seed)
    groups = shape[1] // (shape[1] if group_size == -1 else group_size)
    codes = rng.integers(0, 1 << bits, shape).astype(np.uint8)
    scales = (rng.uniform(0.5, 1.5, (shape[0], groups)) / np.sqrt(shape[1])).astype(np.float16)
    zeros = None if symmetric else rng.integers(0, 1 << bits, scales.shape).astype(np.uint8)
    return QTensor(codes, scales, zeros, bits)
