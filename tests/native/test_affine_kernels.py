"""The kernels of affine weights against numpy, with every instruction set of this machine.

Tolerances are relative to the largest output of a product. Float32 sums of K terms: 2e-6, also against activations that numpy
rounded to 8 bits, and against both factors rounded to bfloat16 (AMX).
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from gguf_blocks import random_affine
from native_library import ISAS, Kernels, built, load_kernels
from numpy.typing import NDArray

from ovround.checkpoint.gguf.affine_blocks import AFFINE_KINDS
from ovround.tensors import native_layout as layout
from ovround.tensors.affine_tensor import AffineTensor
from ovround.tensors.group_values import GroupValues

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]  # the first test builds
EXACT = 2e-6
PORTABLE_LEVELS = 2  # most rows of x with which the portable kernels round x to 8 bits
MATRIX_ROWS = 40  # fewest rows of x with which AMX is used
BATCHES = (1, 2, 3, 7, 16, 33, 49)
Floats = NDArray[np.float32]


def in_groups(tensor: AffineTensor, times: int) -> AffineTensor:
    """`tensor` in groups of `times` as many inputs, each with the first scale and minimum."""
    scales, minimums = (
        None
        if values is None
        else GroupValues(values.blocks, None if values.factors is None else values.factors[:, ::times])
        for values in (tensor.scales, tensor.minimums)
    )
    assert scales is not None
    return replace(tensor, scales=scales, minimums=minimums)


WEIGHTS = {
    **{
        f"{kind}, {rows}x{columns}": random_affine(kind, (rows, columns))
        for kind in AFFINE_KINDS for rows, columns in ((70, 512), (17, 1280))
    },
    "groups of 64": in_groups(random_affine("Q4_K", (33, 768)), 2),
    "groups of 128 with a zero point": in_groups(random_affine("Q6_K", (33, 768)), 8),
    "groups of 32 in 6 bits": in_groups(random_affine("Q6_K", (16, 256)), 2),
}  # fmt: skip


@pytest.fixture(scope="session")
def kernels() -> Kernels:
    return load_kernels(built())


@pytest.fixture(params=ISAS)
def isa(request: pytest.FixtureRequest, kernels: Kernels) -> str:
    name: str = request.param
    if not kernels.has(name):
        pytest.skip(f"no {name} here")
    return name


def inputs(tokens: int, columns: int) -> Floats:
    rng = np.random.default_rng(100 + tokens)  # of seeds whose values lie on no edge of a level
    return (rng.standard_normal((tokens, columns)) * rng.uniform(0.1, 3, columns)).astype(np.float32)


def error(values: Floats, x: Floats, y: Floats) -> float:
    expected = x.astype(np.float64) @ values.astype(np.float64).T
    return float(np.abs(y - expected).max() / np.abs(expected).max())


def rounded_inputs(x: Floats, span: int) -> Floats:
    """x rounded to 8 bits, `span` inputs at a time."""
    parts = x.reshape(len(x), -1, span)
    most = np.abs(parts).max(axis=2, keepdims=True)
    return (np.rint(parts * (np.float32(127) / most)) * (most / np.float32(127))).reshape(x.shape)


def bfloat16(values: Floats) -> Floats:
    """`values` rounded to the nearest bfloat16, ties to even."""
    bits = np.ascontiguousarray(values, np.float32).view(np.uint32)
    return ((bits + 0x7FFF + ((bits >> 16) & 1)) & np.uint32(0xFFFF0000)).view(np.float32)


@pytest.mark.parametrize("name", WEIGHTS)
def test_products(kernels: Kernels, isa: str, name: str) -> None:
    weight = WEIGHTS[name]
    values = weight.dequantize()
    for tokens in BATCHES:
        x = inputs(tokens, weight.shape[1])
        assert error(values, x, kernels.linear(weight, x, isa, exact=True, threads=3)) < EXACT, tokens
        answer = kernels.linear(weight, x, isa, threads=3)
        if isa == "portable" and tokens > PORTABLE_LEVELS:  # decoded to float32
            assert error(values, x, answer) < EXACT, tokens
        elif isa == "amx" and tokens >= MATRIX_ROWS:
            assert error(bfloat16(values), bfloat16(x), answer) < EXACT, tokens
        else:
            assert error(values, rounded_inputs(x, min(weight.group_size, 32)), answer) < EXACT, tokens


@pytest.mark.parametrize("exact", [False, True])
def test_gates(kernels: Kernels, isa: str, exact: bool) -> None:
    weight = WEIGHTS["Q4_K, 70x512"]
    for tokens in BATCHES:
        x = inputs(tokens, weight.shape[1])
        plain = kernels.linear(weight, x, isa, exact=exact).astype(np.float64)
        answer = kernels.linear(weight, x, isa, exact=exact, threads=3, gated=True)
        np.testing.assert_allclose(answer, plain / (1 + np.exp(-plain)) * plain, rtol=2e-6, atol=1e-30)


@pytest.mark.parametrize("kind", AFFINE_KINDS)
def test_one_wrong_number_is_noticed(kernels: Kernels, isa: str, kind: str) -> None:
    """A code or a factor off by one, and a float16 number off by a sixteenth, are beyond the tolerance."""
    weight = WEIGHTS[f"{kind}, 70x512"]
    x = inputs(1, weight.shape[1])
    expected = weight.dequantize()
    changes: list[tuple[NDArray[Any], int]] = [(weight.codes, 1)]
    for values in (weight.scales, weight.minimums):
        if values is not None:
            changes.append((values.blocks.view(np.uint16), 64) if values.factors is None else (values.factors, 1))
    for part, bit in changes:
        part[5, 0] ^= bit
        answer = kernels.linear(weight, x, isa, exact=True)
        part[5, 0] ^= bit
        assert error(expected, x, answer) > 10 * EXACT


@pytest.mark.parametrize("value", [0.0, np.nan, np.inf])
def test_zeros_and_what_is_no_number(kernels: Kernels, isa: str, value: float) -> None:
    x = inputs(2, 512)
    x[1] = value
    for kind in AFFINE_KINDS:
        y = kernels.linear(WEIGHTS[f"{kind}, 70x512"], x, isa)
        assert np.isfinite(y[0]).all()
        assert (y[1] == 0).all() if value == 0 else np.isnan(y[1]).all()


@pytest.mark.parametrize("name", WEIGHTS)
def test_layout_keeps_every_bit(name: str) -> None:
    weight = WEIGHTS[name]
    last = (
        np.array([weight.zero_point], np.uint8)
        if weight.minimums is None
        else layout.pack_group_values(weight.minimums)
    )
    parts = layout.pack_integers(weight.codes, weight.bits), layout.pack_group_values(weight.scales), last
    assert layout.unpack_affine(parts, weight.bits, weight.shape).digest() == weight.digest()
