"""The initial state of the weights under tuning in a group of blocks: scales and levels, or codebooks, for each of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch

from ovround.heap import return_freed_memory
from ovround.progress import Progress
from ovround.quant.calibration.calibration_activations import CalibrationActivations
from ovround.quant.codebooks.fit import fit_codebooks
from ovround.quant.codebooks.tuned_weight import CodebookWeight, TunedNorm
from ovround.quant.integers.coordinate_descent import descended
from ovround.quant.integers.initial_grid import Start, compensated, damped, from_extremes, inverse_factor, searched
from ovround.quant.integers.tuned_weight import LearnedScaleWeight, SignRoundWeight, TunedWeight
from ovround.quant.passes.context import QuantContext
from ovround.quant.tensor_pool import TensorPool
from ovround.quant.threads import threads_for
from ovround.tensors.scheme import Codebooks, QuantScheme

Weights = Mapping[str, torch.Tensor]

_STACKED = 1 << 22  # weights; above this, the work of an operation outweighs its call, and a copy takes memory


def init_tuned_weights(
    context: QuantContext, layers: range, weights: dict[str, torch.Tensor], activations: CalibrationActivations
) -> list[TunedWeight]:
    """The weights of the blocks `layers` that the plan quantises, in the state in which their tuning starts.

    `weights` are the original tensors of all these blocks; those that are tuned are taken out. The quantised model's
    activations stand at the first of them. The stage `codebooks` of the progress counts the weights that are fitted to codebooks.
    """
    names = [name for layer in layers for name in context.decoder.linears(layer)]
    if any(isinstance(context.plan[name], Codebooks) for name in names):
        return _init_codebooks(context, layers, names, weights, activations)
    return _init_integers(context, layers, names, weights, activations)


def _init_integers(
    context: QuantContext, layers: range, names: list[str], weights: dict[str, torch.Tensor],
    activations: CalibrationActivations,
) -> list[TunedWeight]:  # fmt: skip
    settings = context.settings
    schemes = {name: scheme for name in names if isinstance(scheme := context.plan[name], QuantScheme)}

    def take(name: str) -> torch.Tensor:
        return context.device.put(weights.pop(f"{name}.weight"))

    if settings.scales == "clipped":
        return [SignRoundWeight(name, take(name), scheme, settings.optimizer) for name, scheme in schemes.items()]
    hessians: dict[str, torch.Tensor] = {}
    if schemes and settings.initial_grid != "extremes":
        hessians = activations.hessians(weights, layers, context.product_dtype(layers))
    starts: dict[str, Start] = {}
    factors = _Factors()
    shapes = {name: weights[f"{name}.weight"].shape for name in schemes}
    pooled = context.decoder.stacked().intersection(schemes)
    latent_pool = TensorPool(sum(shapes[name].numel() for name in pooled), context.device.at)
    for stack in _stacks(schemes, shapes, hessians):
        rows = [shapes[name][0] for name in stack]
        matrix = torch.cat([take(name) for name in stack]) if len(stack) > 1 else take(stack[0])
        stack_hessians = [hessians.pop(name, None) for name in stack]  # given back as they are used
        start = _start(matrix, schemes[stack[0]], stack_hessians[0], settings.initial_grid, factors)
        parts = zip(start.scale.split(rows), start.zero.split(rows), start.latent.split(rows), strict=True)
        for name, (scale, zero, latent) in zip(stack, parts, strict=True):
            place = latent_pool.take(latent.shape).copy_(latent) if name in pooled else latent.contiguous()
            starts[name] = Start(scale.contiguous(), zero.contiguous(), place)
    weights_under_tuning = [
        LearnedScaleWeight(name, starts.pop(name), shapes[name], scheme, settings.optimizer)
        for name, scheme in schemes.items()
    ]
    _init_moments([weight for weight in weights_under_tuning if weight.name in pooled], settings.optimizer, context)
    return [*weights_under_tuning]


def _init_moments(weights: list[LearnedScaleWeight], optimizer: str, context: QuantContext) -> None:
    """Give the optimizers of experts their state, in one piece and in the room of what the initialisation has freed."""
    return_freed_memory()
    size = sum(parameter.numel() for weight in weights for parameter in weight.parameters)
    moments = TensorPool(2 * size if optimizer == "adam" else 0, context.device.at)
    for weight in weights:
        weight.begin_steps(moments)


def _stacks(schemes: Mapping[str, QuantScheme], shapes: Mapping[str, torch.Size], hessians: Weights) -> list[list[str]]:
    """Small weights with one input and one scheme, whose rows are initialised together.

    Each operation of the initialisation is about one column, so more rows cost little.
    """
    stacks: list[list[str]] = []
    for name, scheme in schemes.items():
        last = stacks[-1] if stacks else []
        alike = (
            bool(last) and name in hessians and hessians[name] is hessians.get(last[0]) and scheme == schemes[last[0]]
        )
        if alike and sum(shapes[member].numel() for member in (*last, name)) <= _STACKED:
            last.append(name)
        else:
            stacks.append([name])
    return stacks


class _Factors:
    """The inverse factor of the latest hessian: several weights may have one input."""

    def __init__(self) -> None:
        self._hessian: torch.Tensor | None = None
        self._factor: torch.Tensor | None = None

    def __call__(self, hessian: torch.Tensor) -> torch.Tensor:
        if self._factor is None or hessian is not self._hessian:
            self._factor = None  # not two at once
            self._hessian, self._factor = hessian, inverse_factor(hessian)
        return self._factor


def _start(
    matrix: torch.Tensor,
    scheme: QuantScheme,
    hessian: torch.Tensor | None,
    method: str,
    factor: Callable[[torch.Tensor], torch.Tensor] = inverse_factor,
) -> Start:
    if hessian is None or not bool(hessian.diagonal().any()):  # an expert that no token reached
        return from_extremes(matrix, scheme)
    if method == "search":
        return searched(matrix, scheme, hessian.diagonal())
    start = compensated(matrix, scheme, factor(hessian))
    return descended(matrix, scheme, start, damped(hessian)) if method == "descent" else start


def _init_codebooks(
    context: QuantContext, layers: range, names: list[str], weights: dict[str, torch.Tensor],
    activations: CalibrationActivations,
) -> list[TunedWeight]:  # fmt: skip
    """Each weight fitted to its inputs, and the norms where they are tuned too."""
    layouts = {name: layout for name in names if isinstance(layout := context.plan[name], Codebooks)}
    settings, device = context.settings, context.device
    tuned: list[TunedWeight] = []
    with threads_for(activations.work(weights)):
        hessians = activations.hessians(weights, layers, context.product_dtype(layers))
        for number, (name, layout) in enumerate(layouts.items()):
            matrix, hessian = device.put(weights.pop(f"{name}.weight")), hessians.pop(name, None)
            generator = torch.Generator().manual_seed(settings.seed + layers[0])
            weight = CodebookWeight(
                name, fit_codebooks(matrix, hessian, layout, generator), layout, settings.learn_codes
            )
            weight.init_offsets(matrix, hessian)
            tuned.append(weight)
            context.on_progress(Progress("codebooks", layers[0], context.blocks, number + 1, len(layouts)))
    return [*tuned, *_norms(context, weights)] if settings.norms else tuned


def _norms(context: QuantContext, weights: dict[str, torch.Tensor]) -> list[TunedNorm]:
    gains = [name for name, value in weights.items() if value.dim() == 1 and name.endswith(".weight")]
    return [
        TunedNorm(name.removesuffix(".weight"), context.device.put(weights.pop(name)), context.read(name).dtype)
        for name in gains
    ]
