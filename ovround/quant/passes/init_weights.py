"""Where the tuning of a window of blocks begins: a grid or codebooks for each of its weights, and the type of its steps."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence

import torch

from ovround.options.tuning_settings import TuningSettings
from ovround.quant.calibration.calibration_activations import CalibrationActivations
from ovround.quant.codebooks.fit import fit_codebooks
from ovround.quant.codebooks.tuned_weight import CodebookWeight, TunedNorm
from ovround.quant.device import CPU, Device
from ovround.quant.integers.coordinate_descent import descended
from ovround.quant.integers.initial_grid import Start, compensated, damped, from_extremes, inverse_factor, searched
from ovround.quant.integers.tuned_weight import LearnedScaleWeight, SignRoundWeight, TunedWeight
from ovround.quant.passes.signround import threads_for
from ovround.quant.plan import Plan
from ovround.tensors.float_tensor import FloatType
from ovround.tensors.scheme import Codebooks, QuantScheme

Weights = Mapping[str, torch.Tensor]

_STACKED = 1 << 22  # weights: with more, operations are no longer dearer to call than to do, and a copy takes memory


def init_tuned_weights(
    window: range, names: Sequence[str], weights: dict[str, torch.Tensor], dtypes: Mapping[str, FloatType], plan: Plan,
    settings: TuningSettings, chains: CalibrationActivations, device: Device, dtype: torch.dtype | None,
    on_fit: Callable[[int, int], None],
) -> list[TunedWeight]:  # fmt: skip
    """The weights `names` of the blocks `window` that the plan quantises, each where its tuning begins.

    `weights` are the original ones of all the window, `dtypes` the checkpoint's of its vectors, `dtype` what products are
    computed in. `on_fit` is told how many weights have been fitted to codebooks, and of how many.
    """
    if any(isinstance(plan[name], Codebooks) for name in names):
        layouts = {name: layout for name in names if isinstance(layout := plan[name], Codebooks)}
        seed = settings.seed + window[0]
        with threads_for(chains.work(weights)):
            moments = chains.moments(weights, window, dtype)
            coded = _coded(layouts, weights, moments, seed, settings.learn_codes, device, on_fit)
        return coded + (_norms(weights, dtypes, device) if settings.norms else [])
    schemes = {name: scheme for name in names if isinstance(scheme := plan[name], QuantScheme)}
    matrices = {name: device.put(weights[f"{name}.weight"]) for name in schemes}
    if settings.scales == "clipped":
        return [SignRoundWeight(name, matrices[name], scheme, settings.optimizer) for name, scheme in schemes.items()]
    moments = chains.moments(weights, window, dtype) if schemes and settings.initial_grid != "extremes" else {}
    begun: dict[str, Start] = {}
    factors = _Factors()
    for together in _stacks(schemes, matrices, moments):
        rows = [len(matrices[name]) for name in together]
        matrix = torch.cat([matrices[name] for name in together]) if len(together) > 1 else matrices[together[0]]
        start = _begin(matrix, schemes[together[0]], moments.get(together[0]), settings.initial_grid, factors)
        parts = zip(start.scale.split(rows), start.zero.split(rows), start.latent.split(rows), strict=True)
        begun |= {name: Start(*map(torch.Tensor.contiguous, part)) for name, part in zip(together, parts, strict=True)}
    return [
        LearnedScaleWeight(name, begun.pop(name), matrices[name].shape, scheme, settings.optimizer)
        for name, scheme in schemes.items()
    ]


def _stacks(schemes: Mapping[str, QuantScheme], matrices: Weights, moments: Weights) -> list[list[str]]:
    """Weights to begin at once: rows of small ones with one input and one grid, since each operation is about one column."""
    stacks: list[list[str]] = []
    for name, scheme in schemes.items():
        last = stacks[-1] if stacks else []
        alike = bool(last) and name in moments and moments[name] is moments.get(last[0]) and scheme == schemes[last[0]]
        if alike and sum(matrices[one].numel() for one in (*last, name)) <= _STACKED:
            last.append(name)
        else:
            stacks.append([name])
    return stacks


class _Factors:
    """The inverse factor of the second moments that were asked for last: several weights may see one input."""

    def __init__(self) -> None:
        self._of: torch.Tensor | None = None
        self._factor: torch.Tensor | None = None

    def __call__(self, moments: torch.Tensor) -> torch.Tensor:
        if self._factor is None or moments is not self._of:
            self._factor = None  # not two at once
            self._of, self._factor = moments, inverse_factor(moments)
        return self._factor


def _begin(
    matrix: torch.Tensor,
    scheme: QuantScheme,
    moments: torch.Tensor | None,
    starts: str,
    factor: Callable[[torch.Tensor], torch.Tensor] = inverse_factor,
) -> Start:
    if moments is None or not bool(moments.diagonal().any()):  # an expert may see nothing at all
        return from_extremes(matrix, scheme)
    if starts == "search":
        return searched(matrix, scheme, moments.diagonal())
    start = compensated(matrix, scheme, factor(moments))
    return descended(matrix, scheme, start, damped(moments)) if starts == "descent" else start


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
        weight.init_offsets(matrix, moments.get(name))
        tuned.append(weight)
        on_fit(number + 1, len(layouts))
    return tuned


def _norms(weights: Weights, dtypes: Mapping[str, FloatType], device: Device) -> list[TunedWeight]:
    gains = [name for name, value in weights.items() if value.dim() == 1 and name.endswith(".weight")]
    return [TunedNorm(name.removesuffix(".weight"), device.put(weights[name]), dtypes[name]) for name in gains]


def product_dtype(bits: Iterable[float], device: Device = CPU) -> torch.dtype | None:
    """bfloat16 for the products of blocks with grids of so many `bits`, None for float32.

    Where the device has instructions for it and each grid is far coarser than its rounding to 8 bits. The residual stream
    stays in float32, so that only what a block adds to it is rounded.
    """
    coarse = max(bits, default=16) <= 4
    if device.kind != "cpu":
        return torch.bfloat16 if coarse else None
    # torch 2.8 cannot be asked; it then tunes in float32
    capabilities = torch.cpu.get_capabilities() if hasattr(torch.cpu, "get_capabilities") else {}
    fast = capabilities.get("amx_bf16") or capabilities.get("avx512_bf16")
    return torch.bfloat16 if coarse and fast else None
