"""How weights lie in model.onnx.data: round trips, golden bytes, and refusals."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from ovround.errors import VerifyError
from ovround.exporters.exporter import Weight, record_of
from ovround.exporters.onnx.external_data import CACHE_LINE, PAGE, DataFile
from ovround.exporters.onnx.matmul_nbits import layout_of, write_weight
from ovround.exporters.onnx.reading import read_weight
from ovround.tensors.float_tensor import FloatTensor
from ovround.tensors.qtensor import QTensor

GROUPS = (16, 32, 64, 128, 256, -1)


def random_weight(rows: int, columns: int, bits: int, group: int, symmetric: bool) -> QTensor:
    """Codes over the whole range; scales of both signs."""
    rng = np.random.default_rng([rows, columns, bits, group + 1, symmetric])
    groups = 1 if group == -1 else columns // group
    return QTensor(
        rng.integers(0, 1 << bits, (rows, columns), dtype=np.uint8),
        rng.standard_normal((rows, groups)).astype(np.float16),
        None if symmetric else rng.integers(0, 1 << bits, (rows, groups), dtype=np.uint8),
        bits,
    )


def stored(path: Path, weight: QTensor | FloatTensor, *, table: bool = False) -> DataFile:
    file = DataFile(path / "data")
    write_weight(file, "w", weight, table=table)
    file.close()
    return file


def read_back(file: DataFile, weight: QTensor | FloatTensor) -> Weight:
    """What lies in `file`, by the record of `weight`."""
    with file.path.open("rb") as source:
        return read_weight(source, file.entries, record_of("w", weight))


@pytest.mark.parametrize("table", [False, True], ids=["matmul", "table"])
@pytest.mark.parametrize("symmetric", [False, True], ids=["asymmetric", "symmetric"])
@pytest.mark.parametrize("bits", [2, 3, 4, 8])
def test_what_is_written_is_read(tmp_path: Path, bits: int, symmetric: bool, table: bool) -> None:
    for columns, groups in ((512, GROUPS), (172, (-1,)), (48, (16, -1))):
        for group in groups:
            weight = random_weight(33, columns, bits, group, symmetric)
            file = stored(tmp_path, weight, table=table)
            assert read_back(file, weight).digest() == weight.digest(), (columns, group)


@pytest.mark.parametrize(
    ("bits", "columns", "groups", "expected"),
    [
        (4, 512, 32, (4, 16)),
        (4, 512, 2, (4, 256)),
        (4, 512, 1, (4, 128)),
        (4, 1024, 2, (4, 128)),
        (4, 192, 1, (4, 64)),
        (4, 96, 2, (4, 16)),
        (4, 172, 1, (4, 128)),
        (3, 512, 4, (4, 128)),
        (2, 512, 4, (2, 128)),
        (2, 512, 2, (2, 128)),
        (2, 512, 32, (4, 16)),
        (2, 48, 1, (2, 128)),
        (8, 512, 2, (8, 256)),
    ],
)
def test_stored_bits_and_block_size(bits: int, columns: int, groups: int, expected: tuple[int, int]) -> None:
    layout = layout_of(random_weight(1, columns, bits, columns // groups, True))
    assert (layout.stored_bits, layout.block_size) == expected


@pytest.mark.parametrize(("bits", "group"), [(4, 24), (4, 8), (2, 48)])
def test_groups_that_no_block_size_divides_are_refused(bits: int, group: int) -> None:
    with pytest.raises(ValueError, match=f"groups of {group} in rows of {2 * group}"):
        layout_of(random_weight(1, 2 * group, bits, group, True))


def bytes_of(file: DataFile, name: str) -> str:
    with file.path.open("rb") as source:
        return file.entries[name].read(source).tobytes().hex(" ")


def test_golden_bytes(tmp_path: Path) -> None:
    ramp = np.arange(16, dtype=np.uint8)[None]
    scales = np.array([[-0.5, 2.0, 1.0]], np.float16)
    zero_points = np.array([[1, 2, 3]], np.uint8)

    file = stored(tmp_path, QTensor(np.tile(ramp, 3), scales, zero_points, 4))
    assert bytes_of(file, "w") == " ".join(["10 32 54 76 98 ba dc fe"] * 3)
    assert bytes_of(file, "w/scales") == "00 00 00 bf 00 00 00 40 00 00 80 3f"
    assert bytes_of(file, "w/zero_points") == "21 03"
    assert {name: entry.shape for name, entry in file.entries.items()} == {
        "w": (1, 3, 8), "w/scales": (1, 3), "w/zero_points": (1, 2)
    }  # fmt: skip

    # 3 bits in 4: symmetric codes u become u + 4, whose implied zero point is 8; asymmetric ones stay.
    file = stored(tmp_path, QTensor(ramp % 8, scales[:, :1], None, 3))
    assert bytes_of(file, "w") == "54 76 98 ba 54 76 98 ba"
    assert list(file.entries) == ["w", "w/scales"]
    file = stored(tmp_path, QTensor(ramp % 8, scales[:, :1], zero_points[:, 2:], 3))
    assert bytes_of(file, "w") == "10 32 54 76 10 32 54 76"

    # 2 bits; the block of 32 is the group.
    file = stored(tmp_path, QTensor(np.tile(ramp % 4, 2), scales[:, :1], None, 2))
    assert bytes_of(file, "w") == "e4 e4 e4 e4 e4 e4 e4 e4"

    # A row of 20 is padded to a block of 128 with its zero point.
    file = stored(tmp_path, QTensor(np.full((1, 20), 5, np.uint8), scales[:, :1], zero_points[:, 2:], 8))
    assert bytes_of(file, "w") == " ".join(["05"] * 20 + ["03"] * 108)


def test_offsets_suit_mapping(tmp_path: Path) -> None:
    file = DataFile(tmp_path / "data")
    for name, count in (("small", 3), ("large", 1 << 18), ("next", 5)):
        write_weight(file, name, FloatTensor(np.full(count, 1.5, np.float32), "float32"), table=False)
    file.close()
    assert [entry.offset for entry in file.entries.values()] == [0, PAGE, PAGE + (1 << 20)]
    assert file.entries["next"].offset % CACHE_LINE == 0
    with pytest.raises(ValueError, match="a second initializer small"):
        file.view("small", "large", (1 << 18,))


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_float_weights_keep_their_type(tmp_path: Path, dtype: str) -> None:
    values = np.linspace(-2, 2, 24, dtype=np.float32).reshape(4, 6)
    weight = {
        "float32": FloatTensor(values, "float32"),
        "float16": FloatTensor(values.astype(np.float16), "float16"),
        "bfloat16": FloatTensor((values.view(np.uint32) >> 16).astype(np.uint16), "bfloat16"),
    }[dtype]
    assert read_back(stored(tmp_path, weight), weight).digest() == weight.digest()


def patch(file: DataFile, name: str, at: int, data: bytes) -> None:
    with file.path.open("r+b") as stream:
        stream.seek(file.entries[name].offset + at)
        stream.write(data)


def test_damage_is_refused_or_changes_the_digest(tmp_path: Path) -> None:
    weight = random_weight(3, 512, 3, -1, False)  # blocks of 128, four a group
    file = stored(tmp_path, weight)
    patch(file, "w/scales", 4, np.float32(0.5).tobytes())
    with pytest.raises(VerifyError, match="parts of one group"):
        read_back(file, weight)

    file = stored(tmp_path, weight)
    patch(file, "w/zero_points", 0, b"\x70")
    with pytest.raises(VerifyError, match="parts of one group"):
        read_back(file, weight)

    file = stored(tmp_path, weight)
    patch(file, "w/scales", 0, np.array([0.1, 0.1], np.float32).tobytes())
    with pytest.raises(VerifyError, match="no float16"):
        read_back(file, weight)

    file = stored(tmp_path, weight)
    patch(file, "w", 0, b"\x0f")
    with pytest.raises(VerifyError, match="does not fit 3 bits"):
        read_back(file, weight)

    file = stored(tmp_path, weight)
    patch(file, "w", 0, bytes([(weight.codes[0, 0] ^ 1) | weight.codes[0, 1] << 4]))
    assert read_back(file, weight).digest() != weight.digest()

    file = stored(tmp_path, weight)
    file.path.write_bytes(file.path.read_bytes()[:-1])
    with pytest.raises(VerifyError, match="`w` cannot be read back"):
        read_back(file, weight)

    file = stored(tmp_path, weight)
    del file.entries["w/zero_points"]
    with pytest.raises(VerifyError, match="contradict"):
        read_back(file, weight)
