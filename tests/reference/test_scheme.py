"""The torch rounding against the reference implementation: equal levels, scales and zero points."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from reference.reference_impl import Group, quantise

from ovround.errors import TensorError
from ovround.quant.integers import rtn
from ovround.quant.integers.levels import extremes, grouped, levels, scale_and_zero
from ovround.quant.integers.rtn import round_to_nearest
from ovround.tensors.float_tensor import FloatTensor
from ovround.tensors.qtensor import QTensor
from ovround.tensors.scheme import QuantScheme

SCHEMES = [
    QuantScheme(bits, group, symmetric) for bits in (2, 3, 4, 8) for group in (16, -1) for symmetric in (True, False)
]
IDS = [f"{s.bits} bits, {s.group_size}, {'sym' if s.symmetric else 'asym'}" for s in SCHEMES]
Floats = NDArray[np.float32]


def rounded(weight: Floats, scheme: QuantScheme) -> QTensor:
    return round_to_nearest("w", FloatTensor(weight, "float32"), scheme)[0]


def assert_same(tensor: QTensor, reference: list[list[Group]]) -> None:
    assert tensor.codes.tolist() == [[level for group in row for level in group.levels] for row in reference]
    scales = np.array([[group.scale for group in row] for row in reference], np.float16)
    np.testing.assert_array_equal(tensor.scales.view(np.uint16), scales.view(np.uint16))
    assert tensor.zeros().tolist() == [[group.zero_point for group in row] for row in reference]
    values = np.array([[value for group in row for value in group.values()] for row in reference], np.float32)
    np.testing.assert_array_equal(tensor.dequantize().view(np.uint32), values.view(np.uint32))


def special_rows() -> Floats:
    """Groups whose extremes are a trap: all zeros, one sign only, one outlier, equal extremes, values next to nothing."""
    rows = np.zeros((8, 32), np.float32)
    rows[1] = np.linspace(0.1, 2, 32)
    rows[2] = -rows[1]
    rows[3, 5] = 7.0
    rows[4] = np.tile([-1.0, 1.0], 16)
    rows[5] = 1e-7
    rows[6] = np.linspace(-3e-5, 1e-5, 32)
    rows[7] = np.linspace(-60000, 60000, 32)
    return rows


@pytest.mark.parametrize("scheme", SCHEMES, ids=IDS)
def test_rounding_is_the_references(scheme: QuantScheme) -> None:
    random = np.random.default_rng(0).standard_normal((24, 32)).astype(np.float32)
    for weight in (random, special_rows()):
        assert_same(rounded(weight, scheme), quantise(weight, scheme.bits, scheme.group_size, scheme.symmetric))


@settings(deadline=None, max_examples=60)
@given(st.sampled_from(SCHEMES), st.lists(st.floats(-1000, 1000, width=32), min_size=32, max_size=32))
def test_rounding_is_the_references_for_any_values(scheme: QuantScheme, values: list[float]) -> None:
    weight = np.array([values], np.float32)
    assert_same(rounded(weight, scheme), quantise(weight, scheme.bits, scheme.group_size, scheme.symmetric))


def test_golden_levels() -> None:
    """By hand: group of 4 values, 2 bits."""
    weight = np.array([[-1.0, -0.5, 0.25, 0.5] * 4], np.float32)
    symmetric = rounded(weight, QuantScheme(2, 16, True))
    assert (symmetric.codes[0, :4].tolist(), symmetric.scales.tolist()) == ([0, 1, 2, 3], [[0.5]])  # 0.25 / 0.5 to even
    flipped = rounded(-weight, QuantScheme(2, 16, True))
    assert (flipped.codes[0, :4].tolist(), flipped.scales.tolist()) == ([0, 1, 2, 3], [[-0.5]])
    asymmetric = rounded(weight, QuantScheme(2, 16, False))
    assert (asymmetric.codes[0, :4].tolist(), asymmetric.scales.tolist()) == ([0, 1, 2, 3], [[0.5]])
    assert asymmetric.zeros().tolist() == [[2]]


@pytest.mark.parametrize("scheme", SCHEMES, ids=IDS)
def test_no_value_moves_further_than_the_scheme_allows(scheme: QuantScheme) -> None:
    """Half a step for a value within the range; a step and a half where the float16 scale or the zero point cuts it off."""
    weight = np.random.default_rng(1).standard_normal((16, 64)).astype(np.float32)
    tensor = rounded(weight, scheme)
    step = np.abs(np.repeat(tensor.scales.astype(np.float32), tensor.group_size, axis=1))
    off = np.abs(tensor.dequantize() - weight) / step
    # 2^-11 is float16's rounding of the scale, times at most 2^bits levels.
    slack = 2.0**-11 * 2**scheme.bits
    inside = (tensor.codes > 0) & (tensor.codes < 2**scheme.bits - 1)
    assert off[inside].max() <= 0.5 + slack
    assert off.max() <= 1.5 + slack


def test_scheme_functions_are_what_rounding_uses() -> None:
    weight = torch.from_numpy(np.random.default_rng(2).standard_normal((4, 32)).astype(np.float32))
    for scheme in SCHEMES:
        groups = grouped(weight, scheme)
        scale, zero = scale_and_zero(*extremes(groups), scheme)
        codes = levels(groups, scale, zero, scheme.bits).reshape(4, 32)
        assert np.array_equal(codes.numpy(), rounded(weight.numpy(), scheme).codes)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_half_precision_weights_are_rounded_by_their_exact_values(dtype: str) -> None:
    values = np.random.default_rng(3).standard_normal((4, 32)).astype(np.float32)
    bits = (values.view(np.uint32) >> 16).astype(np.uint16)
    half = FloatTensor(bits, "bfloat16") if dtype == "bfloat16" else FloatTensor(values.astype(np.float16), "float16")
    scheme = QuantScheme(4, 16, False)
    assert round_to_nearest("w", half, scheme)[0].digest() == rounded(half.float32(), scheme).digest()


def test_rows_are_rounded_in_pieces_without_a_seam(monkeypatch: pytest.MonkeyPatch) -> None:
    weight = np.random.default_rng(4).standard_normal((37, 32)).astype(np.float32)
    whole, whole_error = round_to_nearest("w", FloatTensor(weight, "float32"), QuantScheme(4, 16, False))
    monkeypatch.setattr(rtn, "_ROWS_ELEMENTS", 5 * 32)
    pieces, error = round_to_nearest("w", FloatTensor(weight, "float32"), QuantScheme(4, 16, False))
    assert pieces.digest() == whole.digest()
    assert error == pytest.approx(whole_error, rel=1e-6)  # float32 sums of other lengths
    exact = np.linalg.norm(weight - whole.dequantize()) / np.linalg.norm(weight)
    assert error == pytest.approx(float(exact), rel=1e-6)  # numpy's norm adds up in float32


def test_a_scale_beyond_float16_is_refused() -> None:
    weight = np.full((2, 16), 1e6, np.float32)
    with pytest.raises(TensorError, match=r"`model\.q` has values so large") as caught:
        round_to_nearest("model.q", FloatTensor(weight, "float32"), QuantScheme(2, 16, True))
    assert caught.value.hint == "--layer 'model.q=bits:16' leaves it in float"
    with pytest.raises(TensorError):
        round_to_nearest("model.q", FloatTensor(-weight, "float32"), QuantScheme(2, 16, True))
    assert rounded(weight, QuantScheme(8, 16, True)).scales[0, 0] == np.float16(
        -1e6 / 128
    )  # more levels, smaller steps
