"""The delta rule and the short convolution in torch, in chunks and carried on, against their definitions token by token."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch

from ovround.errors import ArchitectureError
from ovround.models import from_config, smallest_configs
from ovround.models.parts.causal_convolution import CausalConvolution
from ovround.models.parts.gated_delta_net import GatedDeltaRule
from ovround.models.torch_ops import TorchOps
from ovround.models.verb_gated_delta_rule import CHUNK

RULE = GatedDeltaRule("mixer", key_heads=2, value_heads=4, key_size=6, value_size=5)
BATCH, TOKENS = 2, 2 * CHUNK + 21
TOLERANCE = 1e-5  # float32 sums in another order; a wrong order of heads is 1


def inputs(seed: int = 0) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    random = torch.Generator().manual_seed(seed)
    mixed = torch.randn(BATCH, TOKENS, sum(RULE.widths), generator=random)
    a, b = (torch.randn(BATCH, TOKENS, RULE.value_heads, generator=random) for _ in range(2))
    return mixed, a, b


def weights() -> dict[str, torch.Tensor]:
    random = torch.Generator().manual_seed(1)
    rates, biases = (torch.randn(RULE.value_heads, generator=random) for _ in range(2))
    return {"mixer.A_log": rates - 1, "mixer.dt_bias": biases}


def by_definition(mixed: torch.Tensor, a: torch.Tensor, b: torch.Tensor) -> np.ndarray:
    """The formula in the docstring of `GatedDeltaRule`, in float64, one row, head and token after the other."""
    rates, biases = (weights()[f"mixer.{name}"].double().numpy() for name in ("A_log", "dt_bias"))
    query, key, value = (part.double().numpy() for part in mixed.split(RULE.widths, -1))
    out = np.zeros((BATCH, TOKENS, RULE.value_heads, RULE.value_size))
    for row in range(BATCH):
        for head in range(RULE.value_heads):
            state = np.zeros((RULE.key_size, RULE.value_size))
            shared = slice(head // 2 * RULE.key_size, (head // 2 + 1) * RULE.key_size)
            own = slice(head * RULE.value_size, (head + 1) * RULE.value_size)
            for token in range(TOKENS):
                q, k = (part[row, token, shared] for part in (query, key))
                q, k = (x / np.sqrt((x * x).sum() + 1e-6) for x in (q, k))
                decay = np.exp(-np.exp(rates[head]) * np.logaddexp(0, a[row, token, head].item() + biases[head]))
                share = 1 / (1 + np.exp(-b[row, token, head].item()))
                state = decay * state
                state = state + np.outer(k, share * (value[row, token, own] - state.T @ k))
                out[row, token, head] = state.T @ q / np.sqrt(RULE.key_size)
    return out.reshape(BATCH, TOKENS, -1)


def computed(rule: GatedDeltaRule, *cuts: int) -> np.ndarray:
    """All outputs, the state carried over the `cuts`."""
    ops, bounds = TorchOps(weights(), keep_cache=True), [0, *cuts, TOKENS]
    parts = [ops.call(rule, [x[:, start:end] for x in inputs()], 0) for start, end in itertools.pairwise(bounds)]
    return torch.cat(parts, 1).numpy()


def test_the_rule_in_chunks_is_the_rule() -> None:
    expected = by_definition(*inputs())
    for cuts in ((), (1, 2, 40, 140), (CHUNK,)):
        assert np.abs(computed(RULE, *cuts) - expected).max() <= TOLERANCE, cuts


def test_gradients_reach_everything() -> None:
    """Tuning needs them; compared with those of the rule step by step, which autograd takes through the definition."""
    grads = []
    for cuts in ((), tuple(range(1, TOKENS))):
        leaves = [x.requires_grad_() for x in inputs()]
        ops, bounds = TorchOps(weights(), keep_cache=True), [0, *cuts, TOKENS]
        parts = [ops.call(RULE, [x[:, start:end] for x in leaves], 0) for start, end in itertools.pairwise(bounds)]
        torch.cat(parts, 1).square().sum().backward()
        grads.append([x.grad for x in leaves])
    for in_chunks, by_steps in zip(*grads, strict=True):
        assert by_steps.abs().max() > 0.01
        torch.testing.assert_close(in_chunks, by_steps, atol=1e-4, rtol=1e-3)


def test_a_convolution_carries_its_tail() -> None:
    convolution = CausalConvolution("conv", 6, 4, bias=True)
    random = torch.Generator().manual_seed(2)
    x, weight, bias = (torch.randn(*shape, generator=random) for shape in ((2, 9, 6), (6, 1, 4), (6,)))
    padded = torch.nn.functional.pad(x, (0, 0, 3, 0))
    plain = sum(padded[:, tap : tap + 9] * weight[:, 0, tap] for tap in range(4)) + bias
    ops = TorchOps({"conv.weight": weight, "conv.bias": bias}, keep_cache=True)
    parts = [
        convolution.forward(ops, x[:, start:end, :2], 0, beside=(x[:, start:end, 2:],))
        for start, end in ((0, 5), (5, 6), (6, 9))
    ]
    torch.testing.assert_close(torch.cat(parts, 1), torch.nn.functional.silu(plain))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"linear_num_value_heads": 3}, "linear_num_value_heads 3 is no multiple of linear_num_key_heads 2"),
        ({"linear_conv_kernel_dim": 1}, "config.json: `linear_conv_kernel_dim` is 1; 2 or more is needed"),
        ({"linear_key_head_dim": 0}, "linear_key_head_dim is 0; 1 to"),
        ({"full_attention_interval": 0}, "config.json: `full_attention_interval` is 0; 1 or more is needed"),
        ({"layer_types": ["sliding_attention", "full_attention"]}, "2 of linear_attention, full_attention are needed"),
        ({"hidden_act": "mish"}, "hidden_act `mish` is not supported"),
    ],
)
def test_what_is_not_built_is_refused_by_key(change: dict[str, object], message: str) -> None:
    with pytest.raises(ArchitectureError) as caught:
        from_config({**smallest_configs("qwen3_5_text")[0], **change})
    assert message in str(caught.value)
