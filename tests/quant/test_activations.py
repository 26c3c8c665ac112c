"""Activations behave the same in memory and in a mapped file."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from ovround.quant.calibration.activation_file import Activations

SHAPE = (5, 3, 4)


@pytest.mark.parametrize("kind", ["memory", "file"])
def test_rows_come_back(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "x.activations" if kind == "file" else None
    values = torch.randn(SHAPE, generator=torch.Generator().manual_seed(0))
    states = Activations(SHAPE, path)
    for start in range(0, 5, 2):
        states[slice(start, start + 2)] = values[start : start + 2]
        states.release()
    rows = torch.tensor([4, 0, 4])
    assert (len(states), states.shape) == (5, SHAPE)
    assert torch.equal(states.tensor, values)
    assert torch.equal(states[rows], values[rows])
    states.release()
    assert torch.equal(states[1:3], values[1:3])
    assert states.tensor.data_ptr() % 64 == 0
    states.close()
    states.close()
    assert len(states) == 0
    assert list(tmp_path.iterdir()) == []


def test_a_view_outlives_its_activations(tmp_path: Path) -> None:
    states = Activations(SHAPE, tmp_path / "x.activations")
    states[slice(0, 5)] = torch.ones(SHAPE)
    view = states[0:1]
    states.close()
    assert torch.equal(view, torch.ones(1, 3, 4))


def test_no_room_for_the_file_is_an_error_at_once(tmp_path: Path) -> None:
    with pytest.raises(OSError, match=r"space|large"):
        Activations((1 << 20, 1 << 20, 1 << 18), tmp_path / "x.activations")
    assert list(tmp_path.iterdir()) == []
