"""Bits of a weight as people write them."""

from __future__ import annotations

import pytest

from ovround.errors import OvroundError
from ovround.options.bits import parse_bits


@pytest.mark.parametrize(
    ("text", "bits"), [("4", 4), ("int4", 4), ("4bit", 4), ("4-bit", 4), ("q8", 8), ("W4", 4), (" 16 bits", 16)]
)
def test_bits_as_others_write_them(text: str, bits: int) -> None:
    assert parse_bits(text) == bits


@pytest.mark.parametrize("text", ["5", "0", "four", "", "Q4_K_M", "IQ2_XXS", "F16", "4.5", "-4"])
def test_bits_that_there_are_not(text: str) -> None:
    with pytest.raises(OvroundError, match="allowed: 2, 3, 4, 8, 16"):
        parse_bits(text)
