"""Byte layouts against the reference implementation, golden bytes, and round trips through OpenVINO's constants."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from reference.reference_impl import bit_stream, codes_of

from ovround.errors import VerifyError
from ovround.exporters.exporter import Weight, record_of
from ovround.exporters.openvino import compressed
from ovround.exporters.openvino.compressed import SCALE, ZERO_POINT, write_weight
from ovround.exporters.openvino.constants import ConstantFile
from ovround.exporters.openvino.reading import read_weight
from ovround.exporters.openvino.storage import ALIGNMENT, element_type
from ovround.tensors.float_tensor import FloatTensor
from ovround.tensors.packing import PACKED_BITS, pack_rows, signed_nibbles, unpack_rows, unsigned_nibbles
from ovround.tensors.qtensor import BITS, GROUP_SIZES, QTensor


@st.composite
def code_rows(draw: st.DrawFn) -> tuple[int, list[list[int]]]:
    bits = draw(st.sampled_from(PACKED_BITS))
    columns = draw(st.integers(1, 21))
    row = st.lists(st.integers(0, 2**bits - 1), min_size=columns, max_size=columns)
    return bits, draw(st.lists(row, min_size=1, max_size=3))


@settings(deadline=None, max_examples=150)
@given(code_rows())
def test_packing_is_the_references(case: tuple[int, list[list[int]]]) -> None:
    bits, rows = case
    codes = np.array(rows, np.uint8)
    packed = pack_rows(codes, bits)
    assert [row.tobytes() for row in packed] == [bit_stream(row, bits) for row in rows]
    assert unpack_rows(packed, bits, codes.shape[1]).tolist() == rows
    assert [codes_of(row.tobytes(), bits, len(rows[0])) for row in packed] == rows


def test_golden_packed_bytes() -> None:
    ramp = np.arange(16, dtype=np.uint8)
    assert pack_rows(ramp % 2, 1).tobytes().hex(" ") == "aa aa"
    assert pack_rows(ramp % 4, 2).tobytes().hex(" ") == "e4 e4 e4 e4"
    assert pack_rows(ramp, 4).tobytes().hex(" ") == "10 32 54 76 98 ba dc fe"
    assert pack_rows(ramp, 8).tobytes().hex(" ") == "00 01 02 03 04 05 06 07 08 09 0a 0b 0c 0d 0e 0f"
    assert pack_rows(ramp[:3] + 13, 4).tobytes().hex(" ") == "ed 0f"  # an odd end is filled with zeros
    assert pack_rows(np.array([3, 2, 1, 0, 3], np.uint8), 2).tobytes().hex(" ") == "1b 03"


@pytest.mark.parametrize("bits", [0, 3, 5, 16])
def test_widths_that_do_not_divide_a_byte_are_refused(bits: int) -> None:
    codes = np.zeros((1, 8), np.uint8)
    with pytest.raises(ValueError, match=f"{bits} bits do not divide a byte"):
        pack_rows(codes, bits)
    with pytest.raises(ValueError, match=f"{bits} bits do not divide a byte"):
        unpack_rows(codes, bits, 8)


@pytest.mark.parametrize("bits", [2, 3, 4])
def test_signed_nibbles_are_twos_complement(bits: int) -> None:
    codes = np.arange(2**bits, dtype=np.uint8)
    half = 2 ** (bits - 1)
    nibbles = signed_nibbles(codes, bits)
    assert nibbles.tolist() == [value % 16 for value in range(-half, half)]
    assert unsigned_nibbles(nibbles, bits).tolist() == codes.tolist()


@st.composite
def qtensors(draw: st.DrawFn) -> QTensor:
    """Any bits, group size and symmetry; codes over the whole range, scales of both signs."""
    bits, group = draw(st.sampled_from(BITS)), draw(st.sampled_from(GROUP_SIZES))
    columns = draw(st.integers(1, 40)) if group == -1 else group * draw(st.integers(1, 2))
    rows, groups = draw(st.integers(1, 3)), 1 if group == -1 else columns // group
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    zero_points = rng.integers(0, 1 << bits, (rows, groups), dtype=np.uint8)
    return QTensor(
        rng.integers(0, 1 << bits, (rows, columns), dtype=np.uint8),
        rng.standard_normal((rows, groups)).astype(np.float16),
        None if draw(st.booleans()) else zero_points,
        bits,
    )


@settings(deadline=None, max_examples=100)
@given(qtensors(), st.booleans())
def test_openvino_constants_round_trip(tmp_path_factory: pytest.TempPathFactory, tensor: QTensor, table: bool) -> None:
    back = written_and_read(tmp_path_factory.getbasetemp(), tensor, table=table)
    assert isinstance(back, QTensor)
    assert back.digest() == tensor.digest()
    np.testing.assert_array_equal(back.dequantize().view(np.uint32), tensor.dequantize().view(np.uint32))


@settings(deadline=None, max_examples=60)
@given(qtensors(), st.booleans(), st.sampled_from([8, 16, 24]))
def test_a_weight_in_parts_is_the_same(
    tmp_path_factory: pytest.TempPathFactory, tensor: QTensor, table: bool, part: int
) -> None:
    folder = tmp_path_factory.getbasetemp()
    whole = stored_bytes(folder, tensor, table=table)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(compressed, "PART", part)
        assert stored_bytes(folder, tensor, table=table) == whole
        back = written_and_read(folder, tensor, table=table)
    assert isinstance(back, QTensor)
    assert back.digest() == tensor.digest()


def written_and_read(folder: Path, weight: QTensor | FloatTensor, *, table: bool) -> Weight:
    file = ConstantFile(folder / "weights.bin")
    write_weight(file, "w", weight, table=table)
    file.close()
    with file.path.open("rb") as source:
        return read_weight(source, file.entries, record_of("w", weight))


def stored_bytes(folder: Path, weight: QTensor, *, table: bool = False) -> dict[str, tuple[str, str]]:
    """Element type and bytes of each constant of `weight`."""
    file = ConstantFile(folder / "weights.bin")
    write_weight(file, "w", weight, table=table)
    file.close()
    content = file.path.read_bytes()
    return {
        name.removeprefix("w"): (entry.element_type, content[entry.offset :][: entry.size_bytes].hex(" "))
        for name, entry in file.entries.items()
    }


def test_golden_openvino_bytes(tmp_path: Path) -> None:
    ramp = np.arange(16, dtype=np.uint8)[None]
    scale, zero_point = np.array([[-0.5]], np.float16), np.array([[3]], np.uint8)
    half = ("f16", "00 b8")

    assert stored_bytes(tmp_path, QTensor(ramp, scale, None, 4)) == {
        "": ("i4", "98 ba dc fe 10 32 54 76"), SCALE: half
    }  # fmt: skip
    assert stored_bytes(tmp_path, QTensor(ramp, scale, zero_point, 4)) == {
        "": ("u4", "10 32 54 76 98 ba dc fe"), SCALE: half, ZERO_POINT: ("u4", "03")
    }  # fmt: skip
    # 3 bits keep their own centre, -4 .. 3, in nibbles.
    assert stored_bytes(tmp_path, QTensor(ramp % 8, scale, None, 3))[""] == ("i4", "dc fe 10 32 dc fe 10 32")
    assert stored_bytes(tmp_path, QTensor(ramp % 8, scale, zero_point, 3))[""] == ("u4", "10 32 54 76 10 32 54 76")
    # 2 bits: always u2 with a signed zero point, except in a table, which OpenVINO gathers from nibbles only.
    assert stored_bytes(tmp_path, QTensor(ramp % 4, scale, None, 2)) == {
        "": ("u2", "e4 e4 e4 e4"), SCALE: half, ZERO_POINT: ("i8", "02")
    }  # fmt: skip
    assert stored_bytes(tmp_path, QTensor(ramp % 4, scale, None, 2), table=True) == {
        "": ("i4", "fe 10 fe 10 fe 10 fe 10"), SCALE: half
    }  # fmt: skip
    assert stored_bytes(tmp_path, QTensor(ramp * 17, scale, None, 8))[""][1].startswith("80 91 a2 b3")
    assert stored_bytes(tmp_path, QTensor(ramp * 17, scale, zero_point, 8))[ZERO_POINT] == ("u8", "03")


def test_element_types() -> None:
    kinds = {(bits, sym, table): element_type(bits, sym, table=table) for bits in BITS for sym in (True, False) for table in (True, False)}  # fmt: skip  # noqa: E501
    assert {case for case, kind in kinds.items() if kind == "u2"} == {(2, True, False), (2, False, False)}
    assert {case[0] for case, kind in kinds.items() if kind in ("i8", "u8")} == {8}
    assert all(kind[0] in "iu" and (kind[0] == "i") == case[1] for case, kind in kinds.items() if kind != "u2")


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_float_constants_keep_type_and_bits(tmp_path: Path, dtype: str) -> None:
    values = np.linspace(-2, 2, 24, dtype=np.float32).reshape(4, 6)
    data = {"float32": values, "float16": values.astype(np.float16), "bfloat16": (values.view(np.uint32) >> 16).astype(np.uint16)}  # fmt: skip  # noqa: E501
    weight = FloatTensor(data[dtype], dtype)  # type: ignore[arg-type]
    back = written_and_read(tmp_path, weight, table=False)
    assert isinstance(back, FloatTensor)
    assert (back.dtype, back.digest()) == (dtype, weight.digest())


def test_constants_start_on_cache_lines(tmp_path: Path) -> None:
    file = ConstantFile(tmp_path / "weights.bin")
    for name, count in (("a", 3), ("b", 100), ("c", 1)):
        write_weight(file, name, FloatTensor(np.ones(count, np.float32), "float32"), table=False)
    file.close()
    assert [entry.offset for entry in file.entries.values()] == [0, ALIGNMENT, ALIGNMENT * 8]
    with pytest.raises(ValueError, match="constant a: 4 bytes for f32 \\(3,\\), or a second one"):
        file.write("a", "f32", (3,), np.ones(1, np.float32))


@settings(deadline=None, max_examples=60)
@given(qtensors(), st.booleans(), st.data())
def test_any_flipped_bit_is_noticed(
    tmp_path_factory: pytest.TempPathFactory, tensor: QTensor, table: bool, data: st.DataObject
) -> None:
    """In codes, scales and zero points: what is read back has another digest, or is refused."""
    file = ConstantFile(tmp_path_factory.getbasetemp() / "weights.bin")
    write_weight(file, "w", tensor, table=table)
    file.close()
    content = bytearray(file.path.read_bytes())
    part = data.draw(st.sampled_from(sorted(file.entries)))
    entry = file.entries[part]
    used = used_bits(entry.element_type, entry.shape)
    bit = data.draw(st.integers(0, used - 1))
    content[entry.offset + bit // 8] ^= 1 << bit % 8
    file.path.write_bytes(content)
    with file.path.open("rb") as source:
        try:
            back = read_weight(source, file.entries, record_of("w", tensor))
        except VerifyError:
            return
    assert back.digest() != tensor.digest()


def used_bits(element_type: str, shape: tuple[int, ...]) -> int:
    """Bits of a constant that mean something: a last part byte has others."""
    return int(np.prod(shape, dtype=np.int64)) * int(element_type.lstrip("abfiu"))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"bits": 5}, r"bits is 5; one of \(2, 3, 4, 8\) is allowed"),
        ({"codes": np.full((2, 32), 16, np.uint8)}, "code 16 does not fit 4 bits"),
        ({"codes": np.zeros((2, 32), np.int8)}, r"codes are int8 \(2, 32\)"),
        ({"codes": np.zeros(32, np.uint8)}, r"uint8 \[N, K\] is needed"),
        (
            {"scales": np.ones((2, 2), np.float64)},
            r"scales are float64 \(2, 2\); float16 or float32 \[2, G\] is needed",
        ),
        ({"scales": np.ones((3, 2), np.float16)}, r"scales are float16 \(3, 2\)"),
        ({"scales": np.ones((2, 5), np.float16)}, "5 groups do not divide 32 inputs"),
        ({"scales": np.ones((2, 0), np.float16)}, "0 groups do not divide 32 inputs"),
        ({"zero_points": np.ones((2, 1), np.uint8)}, r"zero points are uint8 \(2, 1\)"),
        ({"zero_points": np.ones((2, 2), np.int8)}, "zero points are int8"),
    ],
)
def test_a_tensor_that_contradicts_itself_is_refused(change: dict[str, object], message: str) -> None:
    good: dict[str, object] = {"codes": np.zeros((2, 32), np.uint8), "scales": np.ones((2, 2), np.float16), "zero_points": None, "bits": 4}  # fmt: skip  # noqa: E501
    QTensor(**good)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=message):
        QTensor(**{**good, **change})  # type: ignore[arg-type]


def test_digests_differ_with_every_part() -> None:
    codes, scales, zero_points = np.zeros((2, 32), np.uint8), np.ones((2, 2), np.float16), np.full((2, 2), 8, np.uint8)
    other_codes = np.zeros((2, 32), np.uint8)
    other_codes[1, 31] = 1
    other_scales = np.array([[1, 1], [1, 0.5]], np.float16)
    tensors = [
        QTensor(codes, scales, None, 4), QTensor(codes, scales, zero_points, 4), QTensor(codes, scales, None, 8),
        QTensor(other_codes, scales, None, 4), QTensor(codes, other_scales, None, 4),
        QTensor(codes.reshape(4, 16), scales.reshape(4, 1), None, 4),
        QTensor(codes, np.ones((2, 1), np.float16), None, 4), QTensor(codes, scales, zero_points + np.uint8(1), 4),
    ]  # fmt: skip
    assert len({tensor.digest() for tensor in tensors}) == len(tensors)
    assert QTensor(codes.copy(), scales.copy(), None, 4).digest() == tensors[0].digest()
