"""Mamba 2's recurrence in torch, chunk by chunk, against its definition token by token; and the limits of its steps."""

from __future__ import annotations

import itertools
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from random_model import CONFIGS, logits_of, relative_rms, write_random_model

from ovround.checkpoint import mapped, open_checkpoint
from ovround.errors import ArchitectureError
from ovround.measure.torch_model import CheckpointWeights
from ovround.models import from_config
from ovround.models.parts.selective_scan import SCAN_STATE, SelectiveScan
from ovround.models.torch_ops import TorchOps
from ovround.models.verb_selective_scan import compute

TOLERANCE = 2e-5  # as in test_families
SCAN = SelectiveScan("m", heads=4, head_dim=6, groups=2, state_size=5, limits=(0.05, 2.0))
TOKENS = 150  # two chunks and a part of one


@pytest.fixture
def given() -> tuple[torch.Tensor, torch.Tensor, dict[str, torch.Tensor]]:
    """x, B and C joined, the steps, and the weights."""
    generator = torch.Generator().manual_seed(3)
    joined = torch.randn(2, TOKENS, sum(SCAN.joined_sizes), generator=generator)
    weights = {f"m.{name}": torch.randn(SCAN.heads, generator=generator) for name in ("A_log", "dt_bias", "D")}
    return joined, torch.randn(2, TOKENS, SCAN.heads, generator=generator), weights


def defined(joined: Any, raw: Any, weights: dict[str, torch.Tensor]) -> tuple[NDArray[Any], NDArray[Any]]:
    """y `[B, T, H*P]` and the last state `[B, H, N, P]`, as the recurrence is written, in float64."""
    x, keys, queries = (part.double().numpy() for part in joined.split(SCAN.joined_sizes, -1))
    a_log, bias, skip = (weights[f"m.{name}"].double().numpy() for name in ("A_log", "dt_bias", "D"))
    steps = np.clip(np.log1p(np.exp(raw.double().numpy() + bias)), *SCAN.limits)
    y = np.zeros((len(x), TOKENS, SCAN.heads, SCAN.head_dim))
    state = np.zeros((len(x), SCAN.heads, SCAN.state_size, SCAN.head_dim))
    for row in range(len(x)):
        for head in range(SCAN.heads):
            group = slice(head // 2 * SCAN.state_size, (head // 2 + 1) * SCAN.state_size)
            own = slice(head * SCAN.head_dim, (head + 1) * SCAN.head_dim)
            for token in range(TOKENS):
                step, value = steps[row, token, head], x[row, token, own]
                state[row, head] *= math.exp(-step * math.exp(a_log[head]))
                state[row, head] += step * np.outer(keys[row, token, group], value)
                y[row, token, head] = queries[row, token, group] @ state[row, head] + skip[head] * value
    return y.reshape(len(x), TOKENS, -1), state


def test_chunks_are_the_recurrence(given: tuple[torch.Tensor, torch.Tensor, dict[str, torch.Tensor]]) -> None:
    joined, raw, weights = given
    expected, state = defined(joined, raw, weights)
    ops = TorchOps(weights, keep_cache=True)
    cuts = [0, 70, 71, 72, TOKENS]
    parts = [
        compute(ops, SCAN, (joined[:, start:end], raw[:, start:end]), 0) for start, end in itertools.pairwise(cuts)
    ]
    assert relative_rms(torch.cat(parts, 1).numpy(), expected) <= TOLERANCE
    held = ops.past(0, SCAN_STATE)
    assert held is not None
    assert relative_rms(held.numpy(), state) <= TOLERANCE
    without = compute(TorchOps(weights), SCAN, (joined[:, 72:], raw[:, 72:]), 0)  # the negative control: no state
    assert relative_rms(without.numpy(), expected[:, 72:]) > 100 * TOLERANCE


@pytest.mark.parametrize("limit", [[0.3, 0.9], [0.3, {"__float__": "Infinity"}], [0.3, math.inf]], ids=str)
def test_limits_of_the_steps_are_transformers(tmp_path: Path, limit: list[Any]) -> None:
    config = {**CONFIGS["granitemoehybrid-1"], "time_step_limit": limit}
    model = write_random_model(tmp_path, config)
    checkpoint = open_checkpoint(tmp_path)
    decoder = from_config(checkpoint.config)
    weights = CheckpointWeights(mapped(checkpoint, decoder.sources(), decoder.every_tensor()))
    ids = np.random.default_rng(2).integers(3, 160, (1, 20))
    with torch.no_grad():
        ours = decoder.logits(TorchOps(weights), torch.from_numpy(ids)).numpy()
        free = from_config(CONFIGS["granitemoehybrid-1"]).logits(TorchOps(weights), torch.from_numpy(ids)).numpy()
    assert relative_rms(ours, logits_of(model, ids)) <= TOLERANCE
    assert relative_rms(free, ours) > 100 * TOLERANCE


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("nemotron_h-0", {"hybrid_override_pattern": "M?"}, "`hybrid_override_pattern` is 'M?'; letters of M*-E are needed"),
        ("nemotron_h-0", {"mamba_hidden_act": "mish"}, "mamba_hidden_act `mish` is not supported"),
        ("nemotron_h-2", {"n_group": 3}, "3 experts a token from 2 of 3 groups (n_group, topk_group) of 8 experts"),
        ("nemotron_h-3", {"moe_latent_size": 0}, "moe_latent_size is 0"),
        ("granitemoehybrid-0", {"mamba_d_head": 7}, "`mamba_d_head` is 7; 4 heads of it are not the 128 features"),
        ("granitemoehybrid-0", {"time_step_limit": [0.1]}, "`time_step_limit` is [0.1]; two numbers are needed"),
        ("granitemoehybrid-0", {"layer_types": ["mamba"]}, "`layer_types` is ['mamba']; 2 of linear_attention, full_attention"),
        ("granitemoehybrid-0", {"mamba_n_groups": 3}, "4 heads of Mamba 2 are no multiple of 3 groups"),
        ("falcon_h1-0", {"ssm_multipliers": [1.0]}, "`ssm_multipliers` has 1 numbers; 5 are needed"),
        ("bamba-0", {"attn_layer_indices": 1}, "`attn_layer_indices` is 1; a list is needed"),
        ("lfm2-0", {"full_attn_idxs": 1}, "`full_attn_idxs` is 1; a list is needed"),
    ],
)  # fmt: skip
def test_what_is_not_built_is_refused_by_key(name: str, change: dict[str, Any], message: str) -> None:
    with pytest.raises(ArchitectureError) as caught:
        from_config({**CONFIGS[name], **change})
    assert message in str(caught.value)


def test_json_reads_the_infinity_that_checkpoints_state(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({**CONFIGS["bamba-0"], "time_step_limit": [0.0, math.inf]}))
    assert "Infinity" in (tmp_path / "config.json").read_text()
    assert from_config(json.loads((tmp_path / "config.json").read_text())) == from_config(CONFIGS["bamba-0"])
