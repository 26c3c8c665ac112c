"""GGUF blocks: what they hold equals the tensor, by the arithmetic of the gguf package, bit for bit."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from ovround.exporters.gguf.blocks import bits_a_weight, encoded, minima_of, unfit
from ovround.tensors.qtensor import QTensor

package = pytest.importorskip("gguf")
ROWS, COLUMNS = 6, 512


def grid(bits: int, group_size: int, *, symmetric: bool = True, seed: int = 0) -> QTensor:
    """Random codes, with scales of both signs."""
    rng = np.random.default_rng(seed)
    groups = COLUMNS // (COLUMNS if group_size == -1 else group_size)
    codes = rng.integers(0, 1 << bits, (ROWS, COLUMNS), dtype=np.uint8)
    scales = rng.standard_normal((ROWS, groups)).astype(np.float16)
    zero_points = None if symmetric else rng.integers(0, 1 << bits, scales.shape, dtype=np.uint8)
    return QTensor(codes, scales, zero_points, bits)


def decoded(kind: str, data: NDArray[np.uint8]) -> NDArray[np.float32]:
    values: NDArray[np.float32] = package.quants.dequantize(data, package.GGMLQuantizationType[kind])
    return values


@pytest.mark.parametrize("group_size", [32, 64, 128, 256, -1])
@pytest.mark.parametrize(("bits", "kind"), [(2, "Q4_0"), (3, "Q4_0"), (4, "Q4_0"), (8, "Q8_0")])
def test_symmetric_grids_keep_every_value(bits: int, kind: str, group_size: int) -> None:
    tensor = grid(bits, group_size)
    found = encoded([tensor])
    assert found is not None
    assert found[0] == kind
    np.testing.assert_array_equal(decoded(*found), tensor.dequantize())
    assert found[1].nbytes * 8 == bits_a_weight(bits, group_size, True) * tensor.codes.size


@pytest.mark.parametrize("bits", [2, 3, 4])
def test_zero_points_keep_every_integer(bits: int) -> None:
    """The minimum is float16, as Q4_1 has it: a weight moves by at most half a unit in its last place."""
    tensor = grid(bits, 64, symmetric=False)
    found = encoded([tensor])
    assert found is not None
    assert found[0] == "Q4_1"
    steps = np.abs(decoded(*found) - tensor.dequantize()).reshape(ROWS, -1, 64)
    steps /= np.abs(tensor.scales.astype(np.float32))[..., None]
    assert 0 < steps.max() <= 15 / 2048
    narrow = QTensor(tensor.codes, (tensor.scales.view(np.uint16) & 0xFF80).view(np.float16), tensor.zero_points, bits)
    exact = encoded([narrow])  # scales of 4 significant bits: every product is a float16 number
    assert exact is not None
    np.testing.assert_array_equal(decoded(*exact), narrow.dequantize())


def test_a_minimum_beyond_float16_has_no_type() -> None:
    tensor = QTensor(np.zeros((1, 32), np.uint8), np.full((1, 1), 6e4, np.float16), np.full((1, 1), 3, np.uint8), 4)
    assert np.isinf(minima_of(tensor)).all()
    assert encoded([tensor]) is None


def test_parts_of_one_tensor_share_a_type() -> None:
    narrow, wide = grid(4, 32), grid(8, 32)
    found = encoded([narrow, wide])
    assert found is not None
    assert found[0] == "Q8_0"
    np.testing.assert_array_equal(decoded(*found), np.concatenate([narrow.dequantize(), wide.dequantize()]))


@pytest.mark.parametrize(
    ("bits", "group_size", "symmetric", "inputs", "words"),
    [
        (4, 32, True, 48, "rows of 48"), (4, 16, True, 64, "groups of 16"), (8, 32, False, 64, "8 bits with zero"),
        (4, -1, True, 96, ""), (8, 16, True, 256, "groups of 16"), (3, 64, False, 64, ""),
    ],
)  # fmt: skip
def test_what_never_fits_is_known_beforehand(
    bits: int, group_size: int, symmetric: bool, inputs: int, words: str
) -> None:
    found = unfit(bits, group_size, symmetric, inputs)
    assert words in found
    assert bool(words) == bool(found)


def test_activation_order_has_no_type() -> None:
    tensor = grid(4, 32)
    ordered = QTensor(tensor.codes, tensor.scales, None, 4, np.arange(COLUMNS, dtype=np.int32)[::-1].copy())
    assert encoded([ordered]) is None
