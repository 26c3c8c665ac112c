"""Where the tuning of a window of blocks begins: a grid or codebooks for each of its weights, and the type of its steps."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch

from ovround.config import Codebooks, ConvertOptions, Scheme
from ovround.floattensor import FloatType
from ovround.quant.chains import Chains
from ovround.quant.codebook_fit import fit_codebooks
from ovround.quant.codebook_weight import CodebookWeight, TunedNorm
from ovround.quant.coordinate_descent import descended
from ovround.quant.device import CPU, Device
from ovround.quant.initial_grid import compensated, damped, from_extremes, inverse_factor, searched
from ovround.quant.plan import Plan
from ovround.quant.signround import threads_for
from ovround.quant.tuned_weight import ClippedWeight, FreeWeight, TunedWeight

Weights = Mapping[str, torch.Tensor]


def begin_window(
    window: range, names: Sequence[str], weights: dict[str, torch.Tensor], dtypes: Mapping[str, FloatType], plan: Plan,
    options: ConvertOptions, chains: Chains, device: Device, on_fit: Callable[[int, int], None],
) -> list[TunedWeight]:  # fmt: skip
    """The weights `names` of the blocks `window` that the plan quantises, each where its tuning begins.

    `weights` are the original ones of all the window, `dtypes` the checkpoint's of its vectors. `on_fit` is told how many
    weights have been fitted to codebooks, and of how many.
    """
    if any(isinstance(plan[name], Codebooks) for name in names):
        layouts = {name: layout for name in names if isinstance(layout := plan[name], Codebooks)}
        seed = options.seed + window[0]
        with threads_for(chains.work(weights)):
            coded = _coded(layouts, weights, chains.moments(weights, window), seed, options.learn_codes, device, on_fit)
        return coded + (_norms(weights, dtypes, device) if options.norms else [])
    schemes = {name: scheme for name in names if isinstance(scheme := plan[name], Scheme)}
    matrices = {name: device.put(weights[f"{name}.weight"]) for name in schemes}
    if options.scales == "clipped":
        return [ClippedWeight(name, matrices[name], scheme, options.moves_by) for name, scheme in schemes.items()]
    starts = options.starts_at
    moments = chains.moments(weights, window) if schemes and starts != "extremes" else {}
    tuned: list[TunedWeight] = []
    for name, scheme in schemes.items():
        matrix = matrices[name]
        seen = starts != "extremes" and bool(moments[name].diagonal().any())  # an expert may see nothing at all
        if not seen:
            start = from_extremes(matrix, scheme)
        elif starts == "search":
            start = searched(matrix, scheme, moments[name].diagonal())
        else:
            start = compensated(matrix, scheme, inverse_factor(moments[name]))
            if starts == "descent":
                start = descended(matrix, scheme, start, damped(moments[name]))
        tuned.append(FreeWeight(name, start, matrix.shape, scheme, options.moves_by))
    return tuned


def _coded(
    layouts: Mapping[str, Codebooks], weights: Weights, moments: Weights, seed: int, learn_codes: bool, device: Device,
    on_fit: Callable[[int, int], None],
) -> list[TunedWeight]:  # fmt: skip
    """Each weight fitted to its inputs."""
    tuned: list[TunedWeight] = []
    for number, (name, layout) in enumerate(layouts.items()):
        matrix = device.put(weights[f"{name}.weight"])
        fitted = fit_codebooks(matrix, moments.get(name), layout, torch.Generator().manual_seed(seed))
        weight = CodebookWeight(name, fitted, layout, learn_codes)
        weight.lean(matrix, moments.get(name))
        tuned.append(weight)
        on_fit(number + 1, len(layouts))
    return tuned


def _norms(weights: Weights, dtypes: Mapping[str, FloatType], device: Device) -> list[TunedWeight]:
    gains = [name for name, value in weights.items() if value.dim() == 1 and name.endswith(".weight")]
    return [TunedNorm(name.removesuffix(".weight"), device.put(weights[name]), dtypes[name]) for name in gains]


def step_dtype(tuned: Sequence[TunedWeight], device: Device = CPU) -> torch.dtype | None:
    """bfloat16 for the gradient steps where the device has instructions for it and the grid is far coarser than its rounding.

    On a CPU with AMX, 4-bit tuning of a 7 M model took 0.42 of the time, with block errors within 0.6 % of float32's. Losses
    that choose between candidates, and both chains of activations, stay in float32.
    """
    coarse = all(weight.bits <= 4 for weight in tuned if not isinstance(weight, TunedNorm))
    if device.kind != "cpu":
        return torch.bfloat16 if coarse else None
    # torch 2.8 cannot be asked; it then tunes in float32
    capabilities = torch.cpu.get_capabilities() if hasattr(torch.cpu, "get_capabilities") else {}
    fast = capabilities.get("amx_bf16") or capabilities.get("avx512_bf16")
    return torch.bfloat16 if coarse and fast else None
