"""The estimated loss of fewer bits: its gradients by finite differences, its scale and ranking against measurements."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from checkpoint_writer import random_weights, tiny_config, write_checkpoint
from numpy.typing import NDArray
from random_model import CONFIGS, write_random_model

from ovround.checkpoint import Checkpoint, mapped, open_checkpoint
from ovround.models import from_config
from ovround.models.decoder import Decoder
from ovround.models.torch_ops import TorchOps
from ovround.options.convert_options import ConvertOptions
from ovround.quant.allocation.sensitivity import LinearGradient, fisher_diagonal, linear_gradients, loss_rises
from ovround.quant.calibration.samples import calibrate
from ovround.quant.integers.rtn import round_to_nearest
from ovround.source_tokenizer import load_tokenizer
from ovround.tensors.scheme import QuantScheme

GRID = QuantScheme(4, 32, True)


def opened(folder: Path) -> tuple[Checkpoint, Decoder]:
    checkpoint = open_checkpoint(folder)
    return checkpoint, from_config(checkpoint.config)


def linears(decoder: Decoder) -> list[str]:
    return [name for layer in range(decoder.config.num_hidden_layers) for name in decoder.linears(layer)]


def weights_of(checkpoint: Checkpoint, dtype: torch.dtype = torch.float32) -> dict[str, torch.Tensor]:
    return {name: torch.from_numpy(checkpoint.read(name).float32()).to(dtype) for name in checkpoint.tensors()}


def loss(decoder: Decoder, weights: dict[str, torch.Tensor], ids: torch.Tensor) -> torch.Tensor:
    log_p = torch.log_softmax(decoder.logits(TorchOps(weights), ids), dim=-1)[:, :-1]
    return -log_p.gather(-1, ids[:, 1:, None]).sum()


@pytest.fixture(scope="module")
def samples() -> NDArray[np.int64]:
    return np.random.default_rng(3).integers(0, 320, (3, 24))


@pytest.fixture(scope="module")
def actual(tiny_source: Path, samples: NDArray[np.int64]) -> dict[str, LinearGradient]:
    """Every layer's gradients for the text's next tokens."""
    return {linear.name: linear for linear in linear_gradients(*opened(tiny_source), samples, None)}


def test_gradients_block_by_block_are_those_of_the_whole_model(
    tiny_source: Path, samples: NDArray[np.int64], actual: dict[str, LinearGradient]
) -> None:
    checkpoint, decoder = opened(tiny_source)
    weights = weights_of(checkpoint)
    assert set(actual) == set(linears(decoder))
    for name, linear in actual.items():
        weight = weights[f"{name}.weight"].clone().requires_grad_()
        torch.autograd.backward(loss(decoder, {**weights, f"{name}.weight": weight}, torch.from_numpy(samples)))
        assert weight.grad is not None
        gradient = torch.einsum("stn,stk->nk", linear.gradient, linear.inputs)
        # float32 sums in another order
        torch.testing.assert_close(gradient, weight.grad, rtol=1e-4, atol=1e-4 * float(weight.grad.abs().max()))


def test_gradients_at_values_that_blocks_share(tmp_path: Path, samples: NDArray[np.int64]) -> None:
    """Keys and values of a layer that later ones read too: the gradient comes from all of them."""
    write_random_model(tmp_path / "model", CONFIGS["gemma4_text-0"])
    plain, decoder = opened(tmp_path / "model")
    checkpoint = mapped(plain, decoder.sources(), decoder.every_tensor())
    weights, found = weights_of(checkpoint), {}
    for linear in linear_gradients(checkpoint, decoder, samples, None):
        found[linear.name] = torch.einsum("stn,stk->nk", linear.gradient, linear.inputs)
    for name in ("model.layers.1.self_attn.v_proj", "model.layers.2.per_layer_input.model_projection"):
        weight = weights[f"{name}.weight"].clone().requires_grad_()
        torch.autograd.backward(loss(decoder, {**weights, f"{name}.weight": weight}, torch.from_numpy(samples)))
        assert weight.grad is not None
        torch.testing.assert_close(found[name], weight.grad, rtol=1e-4, atol=1e-4 * float(weight.grad.abs().max()))


@pytest.mark.parametrize("name", ["model.layers.0.self_attn.k_proj", "model.layers.1.mlp.down_proj"])
def test_gradients_are_those_of_finite_differences(
    tiny_source: Path, samples: NDArray[np.int64], actual: dict[str, LinearGradient], name: str
) -> None:
    checkpoint, decoder = opened(tiny_source)
    weights = weights_of(checkpoint, torch.float64)
    linear, at, step = actual[name], (5, 7), 1e-4
    losses = []
    for sign in (1, -1):
        moved = weights[f"{name}.weight"].clone()
        moved[at] += sign * step
        losses.append(float(loss(decoder, {**weights, f"{name}.weight": moved}, torch.from_numpy(samples))))
    gradient = float(torch.einsum("st,st->", linear.gradient[..., at[0]], linear.inputs[..., at[1]]))
    assert gradient == pytest.approx((losses[0] - losses[1]) / (2 * step), rel=1e-3, abs=1e-4)  # float32 gradients


def test_the_fisher_diagonal_is_a_sum_of_squares_over_samples(actual: dict[str, LinearGradient]) -> None:
    linear = actual["model.layers.0.mlp.up_proj"]
    expected = sum((linear.gradient[w].T @ linear.inputs[w]) ** 2 for w in range(3))
    assert isinstance(expected, torch.Tensor)
    torch.testing.assert_close(fisher_diagonal(linear), expected)


def test_labels_are_drawn_with_the_seed(tiny_source: Path, samples: NDArray[np.int64]) -> None:
    grids = {"model.layers.0.mlp.down_proj": GRID}
    rises = [loss_rises(*opened(tiny_source), samples, grids, (4,), seed) for seed in (1, 1, 2)]
    assert rises[0] == rises[1] != rises[2]


def test_only_the_given_layers_are_estimated_and_fewer_bits_lose_more(
    tiny_source: Path, samples: NDArray[np.int64]
) -> None:
    checkpoint, decoder = opened(tiny_source)
    grids = dict.fromkeys(linears(decoder)[2:5], GRID)
    rises = loss_rises(checkpoint, decoder, samples, grids, (2, 3, 4, 8), 0)
    assert set(rises) == set(grids)
    for by_bits in rises.values():
        values = list(by_bits.values())
        assert list(by_bits) == [2, 3, 4, 8]
        assert values == sorted(values, reverse=True)
        assert values[-1] > 0


def test_a_deliberately_fragile_layer_ranks_first(tmp_path: Path, samples: NDArray[np.int64]) -> None:
    """A projection whose groups hold one large value each: its other weights round to nothing."""
    config, fragile = tiny_config(), "model.layers.1.mlp.up_proj"
    ranked = []
    for spike in (0.0, 3.0):
        weights = random_weights(config, scale=0.1)
        weights[f"{fragile}.weight"][:, ::32] += spike
        checkpoint, decoder = opened(write_checkpoint(tmp_path / f"{spike}", config, weights))
        rises = loss_rises(checkpoint, decoder, samples, dict.fromkeys(linears(decoder), GRID), (4,), 0)
        ranked.append(sorted(rises, key=lambda name: -rises[name][4]))
    assert ranked[0].index(fragile) > 3
    assert ranked[1][0] == fragile


@pytest.mark.parametrize("bits", [3, 4])
def test_the_estimate_is_the_divergence_of_a_trained_model(shared: Path, bits: int) -> None:
    """Each layer of one block of stories3M rounded alone: the measured nats within a third, in the same ranking."""
    folder = shared / "models" / "stories3M"
    checkpoint, decoder = opened(folder)
    options = ConvertOptions(nsamples=8, seqlen=128, calibration=(shared / "data" / "tinystories-calibration.jsonl",))
    vocab = decoder.config.vocab_size
    samples = calibrate(load_tokenizer(folder), options, 512, vocab).samples[:8]
    names = decoder.linears(2)
    rises = loss_rises(checkpoint, decoder, samples, dict.fromkeys(names, QuantScheme(bits, 64, True)), (bits,), 0)
    weights, ids = weights_of(checkpoint), torch.from_numpy(samples)
    with torch.no_grad():
        original = torch.log_softmax(decoder.logits(TorchOps(weights), ids), -1)
        truth = {}
        for name in names:
            rounded, _ = round_to_nearest(name, checkpoint.read(f"{name}.weight"), QuantScheme(bits, 64, True))
            moved = {**weights, f"{name}.weight": torch.from_numpy(rounded.dequantize())}
            log_p = torch.log_softmax(decoder.logits(TorchOps(moved), ids), -1)
            truth[name] = float((original.exp() * (original - log_p)).sum(-1).mean())
    for name in names:
        assert rises[name][bits] == pytest.approx(truth[name], rel=0.5), name
    ranks = [
        np.argsort(np.argsort([by[name] for name in names])) for by in (truth, {n: r[bits] for n, r in rises.items()})
    ]
    assert np.corrcoef(*ranks)[0, 1] > 0.8
