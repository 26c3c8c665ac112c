"""The table of parity: each variant of each family once, with grids, types and recipes chosen so that every two of them meet.

All combinations would be tens of thousands of conversions. Most defects need two things at once, a 2-bit grid and a tied
head for instance; so each pair of levels of two factors is in some row, and each variant in exactly one.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import Any

from checkpoint_writer import tiny_config
from random_model import CONFIGS, FIRST

FACTORS: dict[str, tuple[Any, ...]] = {
    "bits": (4, 2, 3, 8, 16),
    "group_size": (32, 16, -1),
    "sym": (True, False),
    "ends": (None, 4, 16),  # bits of embedding and head; None: the default; 4 gives a tied head a grid of its own
    "dtype": ("F32", "BF16", "F16"),
    "recipe": ("rtn", "tuned"),
}
_LLAMA3 = {"rope_type": "llama3", "rope_theta": 1e4, "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
_PLAIN = {"attention_bias": False, "mlp_bias": False}
# Shapes that no family's smallest configuration has.
SHAPES = {
    "tied": tiny_config(tie_word_embeddings=True),
    "every head its own key": tiny_config(**_PLAIN, num_key_value_heads=4, head_dim=16),
    "one key head for all": tiny_config(**_PLAIN, num_key_value_heads=1),
    "odd sizes": tiny_config(hidden_size=72, intermediate_size=172),
    "heads of 24": tiny_config(head_dim=24),
    "llama3 rope as transformers 4 wrote it": tiny_config(
        rope_theta=5e5, rope_scaling={**_LLAMA3, "original_max_position_embeddings": 32}
    ),
}
VARIANTS = {**CONFIGS, **SHAPES}
_FIXED: dict[str, dict[str, Any]] = {
    "odd sizes": {"group_size": -1},  # which no other group size divides
    **{name: {"recipe": "tuned"} for name in FIRST},  # a family is tuned at least once
}


@dataclass(frozen=True, slots=True)
class Row:
    """One conversion of one variant, to both formats."""

    variant: str
    levels: dict[str, Any]

    @property
    def pairs(self) -> set[tuple[tuple[str, Any], tuple[str, Any]]]:
        """The pairs of levels that the row tests; where nothing is quantised, grids and recipes mean nothing."""
        without = ("group_size", "sym", "recipe") if self.levels["bits"] == 16 else ()
        items = [(name, level) for name, level in self.levels.items() if name not in without]
        return set(itertools.combinations(items, 2))


def _possible(levels: dict[str, Any], fixed: dict[str, Any]) -> bool:
    tunes_nothing = levels["recipe"] == "tuned" and levels["bits"] == 16
    return not tunes_nothing and all(levels[name] == level for name, level in fixed.items())


def _table() -> dict[str, Row]:
    every = [dict(zip(FACTORS, levels, strict=True)) for levels in itertools.product(*FACTORS.values())]
    seen: dict[tuple[tuple[str, Any], tuple[str, Any]], int] = {}
    rows = {}
    for variant in VARIANTS:
        allowed = [Row(variant, levels) for levels in every if _possible(levels, _FIXED.get(variant, {}))]
        best = max(allowed, key=lambda row: sum(1 / (1 + 4 * seen.get(pair, 0)) for pair in row.pairs))
        for pair in best.pairs:
            seen[pair] = seen.get(pair, 0) + 1
        rows[variant] = best
    return rows


TABLE = _table()


def missing_pairs() -> set[tuple[tuple[str, Any], tuple[str, Any]]]:
    """Pairs of levels that make sense and are in no row."""
    every = [dict(zip(FACTORS, levels, strict=True)) for levels in itertools.product(*FACTORS.values())]
    wanted = set().union(*(Row("", levels).pairs for levels in every if _possible(levels, {})))
    return wanted - set().union(*(row.pairs for row in TABLE.values()))
