"""The kernels of runtime/native against numpy, with every instruction set of this machine.

Tolerances are relative to the largest output of a product. Float32 sums of K terms: 2e-6. Kernels with 8-bit activations have
the same tolerance, against activations that numpy rounded; AMX kernels too, against both factors rounded to bfloat16. Lookup
tables of 8 bits: 3 %, because each entry is rounded by half a step of 1 / 127 of the largest value in 128 inputs.
"""

from __future__ import annotations

import numpy as np
import pytest
from native_library import ISAS, Kernels, built, load_kernels, random_codebooks, random_integers
from numpy.typing import NDArray

from ovround.tensors import native_layout as layout
from ovround.tensors.activation_rounding import openvino_group
from ovround.tensors.codebook_tensor import CodebookTensor
from ovround.tensors.qtensor import QTensor

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]  # the first test builds
EXACT, TABLES = 2e-6, 0.03
PORTABLE_LEVELS = 2  # most rows of x with which the portable kernels round x to 8 bits
MATRIX_ROWS = 40  # fewest rows of x with which AMX is used
BATCHES = (1, 2, 3, 7, 16, 33, 49, 64)
CODEBOOKS = {
    "2x8": random_codebooks((96, 128)),
    "2x8, several tiles": random_codebooks((700, 264)),
    "1x8 of 4": random_codebooks((65, 36), 1, 256, (1, 4)),
    "4x6 of 5": random_codebooks((130, 155), 4, 40, (1, 5)),
    "20x8": random_codebooks((64, 128), 20),
    "1x16": random_codebooks((72, 64), 1, 65536),
    "2x12 of 3 by 2": random_codebooks((63, 62), 2, 4096, (3, 2)),
}
SHAPES: dict[str, tuple[tuple[int, int], int, bool]] = {
    "groups of 32": ((96, 128), 32, True),
    "groups of 64, zero points": ((50, 192), 64, False),
    "groups of 128, zero points": ((70, 512), 128, False),
    "groups of 256": ((16, 768), 256, True),
    "rows": ((33, 172), -1, False),
    "wide": ((17, 1344), 64, True),
}
INTEGERS = {
    f"{bits} bits, {name}": random_integers(bits, shape, group, symmetric=symmetric)
    for bits in (2, 3, 4, 8)
    for name, (shape, group, symmetric) in SHAPES.items()
}


@pytest.fixture(scope="session")
def kernels() -> Kernels:
    return load_kernels(built())


@pytest.fixture(params=ISAS)
def isa(request: pytest.FixtureRequest, kernels: Kernels) -> str:
    name: str = request.param
    if not kernels.has(name):
        pytest.skip(f"no {name} here")
    return name


def inputs(tokens: int, columns: int) -> NDArray[np.float32]:
    rng = np.random.default_rng(tokens)
    return (rng.standard_normal((tokens, columns)) * rng.uniform(0.1, 3, columns)).astype(np.float32)


def error(weight: CodebookTensor | QTensor, x: NDArray[np.float32], y: NDArray[np.float32]) -> float:
    return difference(weight.dequantize(), x, y)


def difference(values: NDArray[np.float32], x: NDArray[np.float32], y: NDArray[np.float32]) -> float:
    expected = x.astype(np.float64) @ values.astype(np.float64).T
    return float(np.abs(y - expected).max() / np.abs(expected).max())


def bfloat16(values: NDArray[np.float32]) -> NDArray[np.float32]:
    """`values` rounded to the nearest bfloat16, ties to even."""
    bits = np.ascontiguousarray(values, np.float32).view(np.uint32)
    rounded = (bits + 0x7FFF + ((bits >> 16) & 1)) & np.uint32(0xFFFF0000)
    return rounded.view(np.float32)


def matrix_error(weight: CodebookTensor | QTensor, x: NDArray[np.float32], y: NDArray[np.float32]) -> float:
    return difference(bfloat16(weight.dequantize()), bfloat16(x), y)


def by_matrix(isa: str, tokens: int, weight: CodebookTensor | QTensor) -> bool:
    of_one_output = isinstance(weight, QTensor) or weight.codebooks.shape[2] == 1
    return isa == "amx" and of_one_output and tokens >= MATRIX_ROWS


@pytest.mark.parametrize("name", CODEBOOKS)
def test_codebooks(kernels: Kernels, isa: str, name: str) -> None:
    weight = CODEBOOKS[name]
    for tokens in BATCHES:
        x = inputs(tokens, weight.shape[1])
        assert error(weight, x, kernels.linear(weight, x, isa, exact=True, threads=3)) < EXACT, tokens
        answer = kernels.linear(weight, x, isa, threads=3)
        if by_matrix(isa, tokens, weight):
            assert matrix_error(weight, x, answer) < EXACT, tokens
        assert error(weight, x, answer) < TABLES, tokens


@pytest.mark.parametrize("name", INTEGERS)
def test_integers(kernels: Kernels, isa: str, name: str) -> None:
    weight = INTEGERS[name]
    for tokens in BATCHES:
        x = inputs(tokens, weight.shape[1])
        assert error(weight, x, kernels.linear(weight, x, isa, exact=True, threads=3)) < EXACT, tokens
        answer = kernels.linear(weight, x, isa, threads=3)
        if isa == "portable" and tokens > PORTABLE_LEVELS:  # decoded to float32
            assert error(weight, x, answer) < EXACT, tokens
            continue
        if by_matrix(isa, tokens, weight):
            assert matrix_error(weight, x, answer) < EXACT, tokens
            continue
        levels, step = rounded_inputs(x, weight)
        assert error(weight, levels, answer) < EXACT, tokens
        assert np.abs(levels - x).max() <= 0.5001 * step, tokens


@pytest.mark.parametrize("exact", [False, True])
def test_gates(kernels: Kernels, isa: str, exact: bool) -> None:
    weight = INTEGERS["4 bits, groups of 64, zero points"]
    for tokens in BATCHES:
        x = 5 * inputs(tokens, weight.shape[1])
        plain = kernels.linear(weight, x, isa, exact=exact).astype(np.float64)
        expected = plain / (1 + np.exp(-plain)) * plain
        answer = kernels.linear(weight, x, isa, exact=exact, threads=3, gated=True)
        np.testing.assert_allclose(answer, expected, rtol=2e-6, atol=1e-30)
    assert plain.min() < -90 or plain.max() > 90


def rounded_inputs(x: NDArray[np.float32], weight: QTensor) -> tuple[NDArray[np.float32], float]:
    """x rounded to 8 bits in the activation groups of `weight`, and the largest step."""
    rounded = np.zeros_like(x)
    span, largest = openvino_group([weight.shape[1] // weight.scales.shape[1]]), 0.0
    for start in range(0, x.shape[1], span):
        part = x[:, start : start + span]
        most = np.abs(part).max(axis=1, keepdims=True)
        levels = np.rint(part * (np.float32(127) / most))
        rounded[:, start : start + span] = levels * (most / np.float32(127))
        largest = max(largest, float(most.max()) / 127)
    return rounded, largest


def test_one_wrong_code_is_noticed(kernels: Kernels, isa: str) -> None:
    weight, x = CODEBOOKS["2x8"], inputs(1, 128)
    weight.codes[5, 7, 1] ^= 1
    answer = kernels.linear(weight, x, isa, exact=True)
    weight.codes[5, 7, 1] ^= 1
    assert error(weight, x, answer) > 100 * EXACT


@pytest.mark.parametrize("name", ["2x8", "4 bits, groups of 64, zero points"])
def test_one_wrong_code_is_noticed_in_a_prompt(kernels: Kernels, name: str) -> None:
    if not kernels.has("amx"):
        pytest.skip("no amx here")
    weight = {**CODEBOOKS, **INTEGERS}[name]
    x = inputs(MATRIX_ROWS, weight.shape[1])
    position = (5, 7, 1)[: weight.codes.ndim]
    weight.codes[position] ^= 1
    answer = kernels.linear(weight, x, "amx")
    weight.codes[position] ^= 1
    assert matrix_error(weight, x, answer) > 100 * EXACT


def test_rows_of_a_prompt_do_not_touch_each_other(kernels: Kernels, isa: str) -> None:
    x = inputs(40, 128)
    for weight in (CODEBOOKS["2x8"], INTEGERS["3 bits, groups of 32"], INTEGERS["4 bits, groups of 32"]):
        x[17] = 1
        clean = kernels.linear(weight, x, isa)
        x[17] = np.inf
        y = kernels.linear(weight, x, isa)
        assert not np.isfinite(y[17]).any()
        np.testing.assert_array_equal(np.delete(y, 17, 0), np.delete(clean, 17, 0))


def test_threads_and_instruction_sets_give_the_same_sums(kernels: Kernels, isa: str) -> None:
    weight, x = CODEBOOKS["2x8, several tiles"], inputs(4, 264)
    alone = kernels.linear(weight, x, isa)
    for _ in range(20):
        np.testing.assert_array_equal(kernels.linear(weight, x, isa, threads=4), alone)
    # All sums of table bytes are integers, so only the last products in float32 may differ.
    np.testing.assert_allclose(alone, kernels.linear(weight, x, "portable"), rtol=0, atol=2e-6 * np.abs(alone).max())


@pytest.mark.parametrize("value", [0.0, np.nan, np.inf])
def test_zeros_and_what_is_no_number(kernels: Kernels, isa: str, value: float) -> None:
    x = inputs(2, 128)
    x[1] = value
    for weight in (CODEBOOKS["2x8"], INTEGERS["3 bits, groups of 32"], INTEGERS["4 bits, groups of 32"]):
        y = kernels.linear(weight, x, isa)
        assert np.isfinite(y[0]).all()
        assert (y[1] == 0).all() if value == 0 else np.isnan(y[1]).all()


def test_layouts_keep_every_bit() -> None:
    for codebook in CODEBOOKS.values():
        entries = codebook.codebooks.shape[1]
        packed = layout.pack_codes(codebook.codes, entries)
        np.testing.assert_array_equal(layout.unpack_codes(packed, entries, len(codebook.scales)), codebook.codes)
        halves = layout.halves_as_bytes(codebook.codebooks), layout.halves_as_bytes(codebook.scales)
        np.testing.assert_array_equal(layout.expand_codebook(packed, *halves), codebook.dequantize().astype(np.float16))
    for weight in INTEGERS.values():
        packed, scales = layout.pack_integers(weight.codes, weight.bits), layout.pack_qparams(weight.scales)
        np.testing.assert_array_equal(layout.unpack_integers(packed, weight.bits, *weight.shape), weight.codes)
        np.testing.assert_array_equal(layout.unpack_qparams(scales, len(weight.scales)), weight.scales)
        groups = weight.scales.shape[1]
        assert (packed.size, 2 * scales.size, scales.size) == layout.integer_bytes(weight.bits, *weight.shape, groups)
