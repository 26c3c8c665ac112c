"""Bits for each layer from one number: average bits, bytes, or milliseconds a token.

options -> what each layer costs at each width -> can the target be reached? -> how much each width loses -> exact choice

All but the losses is known from headers, so a target that cannot be reached is an error before anything is computed.
"""

from __future__ import annotations

import importlib
import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from types import ModuleType

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer

from ovround.checkpoint import Checkpoint
from ovround.conversion.latency_table import read_table
from ovround.errors import UsageError
from ovround.models.decoder import HEAD, Decoder
from ovround.options.convert_options import ConvertOptions, QuantScheme, WeightScheme
from ovround.quant.allocation.knapsack import Choice, allocate
from ovround.quant.calibration.samples import calibrate
from ovround.quant.plan import Plan, choosable, weight_shapes
from ovround.tensors.qtensor import BITS

# What losses are estimated on, as in auto-round's AutoScheme; a smaller --nsamples or --seqlen holds for it too.
WINDOWS, WINDOW_TOKENS = 16, 256
SCALE_BITS = 16  # float16, as SignRound yields them; ONNX holds them in 32, which --target-size counts
_NANOSECONDS = 1_000_000  # in a millisecond: costs are whole numbers

Cost = Callable[[str, WeightScheme | None], int]
"""What a module takes of the budget on a grid."""


@dataclass(frozen=True, slots=True, eq=False)
class BitBudget:
    """A target that can be reached: what is to be chosen, what each choice costs, and the text to estimate losses on.

    `groups` are modules that get the same width; `costs` has one entry a group, by bits; `fixed` is what everything else
    costs; all of them and `budget` are whole numbers, and `scale` of them are one unit of the target.
    """

    target: str
    groups: tuple[tuple[str, ...], ...]
    costs: tuple[dict[int, int], ...]
    fixed: int
    budget: int
    scale: float
    windows: NDArray[np.int64]
    seed: int


@dataclass(frozen=True, slots=True)
class BitAllocation:
    """What was chosen: `reached` is in the target's unit (bits a weight, bytes, or ms a token).

    `loss_rise_nats` is the estimated divergence from the original, a token, of the layers that were chosen for, were they
    rounded to nearest.
    """

    target: str
    wanted: float
    reached: float
    loss_rise_nats: float


def build_budget(
    checkpoint: Checkpoint, decoder: Decoder, tokenizer: Tokenizer, plan: Plan, options: ConvertOptions
) -> BitBudget | None:
    """The problem that the options' target poses, None without one; imports no torch.

    Raises UsageError, naming the lowest and highest value, for a target out of reach, and CalibrationError for too little text.
    """
    if options.target is None:
        return None
    name, wanted = options.target
    groups = choosable(decoder, plan, options)
    if not groups:
        raise UsageError(f"{name} has nothing to choose: layer rules state the bits of every linear layer")
    account = _ACCOUNTS[name](checkpoint, decoder, plan, options)
    free = {module for group in groups for module in group}
    fixed = account.constant + sum(account.cost(one, plan[one]) for one in account.modules if one not in free)
    costs = tuple(
        {bits: sum(account.cost(module, _with_bits(plan[module], bits)) for module in group) for bits in BITS}
        for group in groups
    )
    lowest, highest = (fixed + sum(pick(one.values()) for one in costs) for pick in (min, max))
    budget = math.floor(wanted * account.scale)
    if not lowest <= budget <= highest:
        least, most = (
            _shown(name, lowest / account.scale, math.ceil),
            _shown(name, highest / account.scale, math.floor),
        )
        raise UsageError(
            f"{name} is {_shown(name, wanted, round)}; {least} to {most} can be reached",
            hint="--bits 8 takes no more than that" if budget > highest else _LOWER[name],
        )
    return BitBudget(
        name, groups, costs, fixed, budget, account.scale, _windows(decoder, tokenizer, options), options.seed
    )


def widest(problem: BitBudget | None, plan: Plan) -> Plan:
    """`plan` with what is to be chosen at its most bits."""
    free = set() if problem is None else {name for group in problem.groups for name in group}
    return {name: _with_bits(scheme, max(BITS)) if name in free else scheme for name, scheme in plan.items()}


def allocate_bits(
    problem: BitBudget, checkpoint: Checkpoint, decoder: Decoder, plan: Plan
) -> tuple[Plan, BitAllocation]:
    """The plan with the least estimated loss within the budget; the same one for the same input. Computes with torch."""
    from ovround.quant.allocation.sensitivity import loss_rises  # torch: only where a target asks for it

    schemes = {
        name: scheme for group in problem.groups for name in group if isinstance(scheme := plan[name], QuantScheme)
    }
    rises = loss_rises(checkpoint, decoder, problem.windows, schemes, BITS, problem.seed)
    classes = [
        [Choice(costs[bits], sum(rises[name][bits] for name in group)) for bits in BITS]
        for group, costs in zip(problem.groups, problem.costs, strict=True)
    ]
    chosen = allocate(classes, problem.budget - problem.fixed)
    picked = [choices[index] for choices, index in zip(classes, chosen, strict=True)]
    widths = {name: BITS[index] for group, index in zip(problem.groups, chosen, strict=True) for name in group}
    mixed: Plan = {
        name: _with_bits(scheme, widths[name]) if name in widths else scheme for name, scheme in plan.items()
    }
    reached = (problem.fixed + sum(choice.cost for choice in picked)) / problem.scale
    mix = BitAllocation(
        problem.target, problem.budget / problem.scale, reached, math.fsum(choice.loss for choice in picked)
    )
    return mixed, mix


@dataclass(frozen=True, slots=True)
class _Account:
    """How a target is added up: `cost` of each of `modules`, and a constant; `scale` whole numbers are one unit of the target."""

    cost: Cost
    modules: tuple[str, ...]
    constant: int
    scale: float


def _bits(checkpoint: Checkpoint, decoder: Decoder, plan: Plan, options: ConvertOptions) -> _Account:
    """Bits of codes, scales and zero points, an average over the weights of all quantised linear layers of the blocks."""
    shapes = weight_shapes(decoder)

    def cost(module: str, scheme: WeightScheme | None) -> int:
        rows, columns = shapes[f"{module}.weight"]
        if not isinstance(scheme, QuantScheme):
            return 0
        groups = rows if scheme.group_size == -1 else rows * columns // scheme.group_size
        return rows * columns * scheme.bits + groups * (SCALE_BITS + (0 if scheme.symmetric else scheme.bits))

    modules = tuple(name for name in _linears(decoder) if plan[name] is not None)
    return _Account(cost, modules, 0, sum(math.prod(shapes[f"{name}.weight"]) for name in modules))


def _bytes(checkpoint: Checkpoint, decoder: Decoder, plan: Plan, options: ConvertOptions) -> _Account:
    """Bytes of the weights file, padding and the graph's constants included, in the format that needs most for each weight."""
    formats = [importlib.import_module(f"ovround.exporters.sizes_{name}") for name in options.formats]
    shapes, infos, stacked = weight_shapes(decoder), checkpoint.tensors(), decoder.stacked()

    def size(one: ModuleType, name: str, scheme: WeightScheme | None) -> int:
        source = infos[name] if name in infos else infos[f"{decoder.embedding_at}.weight"]
        item_bytes = source.size_bytes // math.prod(source.shape)
        widened = one.__name__.endswith("openvino") and name.removesuffix(".weight") in stacked  # as tables are
        table = name == f"{decoder.embedding_at}.weight" or widened
        return int(one.weight_bytes(shapes[name], scheme, item_bytes, table=table))

    def cost(module: str, scheme: WeightScheme | None) -> int:
        return max(size(one, f"{module}.weight", scheme) for one in formats)

    tied = decoder.head_at != HEAD
    floats = [
        name for name in shapes if name.removesuffix(".weight") not in plan and not (tied and name == f"{HEAD}.weight")
    ]
    constant = max(one.graph_bytes(decoder) + sum(size(one, name, None) for name in floats) for one in formats)
    return _Account(cost, tuple(plan), constant, 1)


def _nanoseconds(checkpoint: Checkpoint, decoder: Decoder, plan: Plan, options: ConvertOptions) -> _Account:
    """What the linear layers and the head take by the latency table."""
    assert options.profile is not None  # noqa: S101  for the type checker: ConvertOptions sees to it
    table, source = read_table(options.profile), options.profile
    if options.formats != (table.format,):
        raise UsageError(
            f"latency table `{source}` was measured for {table.format}; the format is {', '.join(options.formats)}",
            hint=f"--format {table.format}, or a table for the other",
        )
    shapes, shares = weight_shapes(decoder), decoder.token_shares()

    def cost(module: str, scheme: WeightScheme | None) -> int:
        scheme = scheme if isinstance(scheme, QuantScheme) else None
        milliseconds = table.milliseconds(module, shapes[f"{module}.weight"], scheme, source)
        return round(milliseconds * shares.get(module, 1) * _NANOSECONDS)

    head = HEAD if HEAD in plan else decoder.head_at
    return _Account(cost, (*_linears(decoder), head), 0, _NANOSECONDS)


_ACCOUNTS = {"target-bits": _bits, "target-size": _bytes, "target-latency": _nanoseconds}
_LOWER = {
    "target-bits": "larger groups, --sym, or fewer layers that --layer fixes lower it",
    "target-size": "larger groups, --sym, --embedding-bits and --lm-head-bits lower it",
    "target-latency": "--lm-head-bits, or fewer layers that --layer fixes lower it",
}


def _shown(name: str, value: float, rounding: Callable[[float], int]) -> str:
    if name == "target-size":
        return f"{value:.0f} bytes"
    return f"{rounding(value * 1000) / 1000:g}{' ms' if name == 'target-latency' else ''}"


def _windows(decoder: Decoder, tokenizer: Tokenizer, options: ConvertOptions) -> NDArray[np.int64]:
    context = decoder.config.max_position_embeddings
    count = min(WINDOWS, WINDOWS if options.nsamples is None else options.nsamples)
    length = min(WINDOW_TOKENS, context, WINDOW_TOKENS if options.seqlen is None else options.seqlen)
    fewer = replace(options, nsamples=count, seqlen=length)
    return calibrate(tokenizer, fewer, context, decoder.config.vocab_size).windows[:count]


def _linears(decoder: Decoder) -> list[str]:
    return [name for layer in range(decoder.config.num_hidden_layers) for name in decoder.linears(layer)]


def _with_bits(scheme: WeightScheme | None, bits: int) -> WeightScheme | None:
    return replace(scheme, bits=bits) if isinstance(scheme, QuantScheme) else scheme
