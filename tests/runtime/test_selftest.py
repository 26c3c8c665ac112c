"""`ovround selftest` on the emulation, and where there is no Gaudi."""

from __future__ import annotations

from pathlib import Path

import pytest

from ovround.runtime.hpu.selftest import selftest


@pytest.mark.slow
def test_every_check_holds_on_the_emulation(demo_folders: dict[str, Path]) -> None:
    checks = list(selftest(demo_folders["openvino"], "hpu-emulated"))
    assert [check for check in checks if not check.passed] == []
    assert len(checks) == 6


def test_without_a_device_the_first_check_says_so(demo_folders: dict[str, Path]) -> None:
    (check,) = selftest(demo_folders["openvino"])
    assert not check.passed
    assert "habana_frameworks" in check.seen
