"""Bits for each layer from one number: average bits, bytes, or milliseconds a token.

options -> what each layer costs at each width -> can the budget be kept? -> how much each width loses -> exact choice

All but the losses is known from headers, so a budget that cannot be kept is an error before anything is computed.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer

from ovround.checkpoint import Checkpoint
from ovround.conversion.latency_table import read_table
from ovround.errors import UsageError
from ovround.exporters.formats import sizes_of
from ovround.exporters.sizes import Sizes, exact_bits
from ovround.models.decoder import Decoder
from ovround.options.budget import Budget, Unit
from ovround.options.convert_options import ConvertOptions
from ovround.quant.allocation.knapsack import Choice, allocate
from ovround.quant.calibration.samples import calibrate
from ovround.quant.plan import Plan, choosable
from ovround.tensors.qtensor import BITS
from ovround.tensors.scheme import QuantScheme, WeightScheme
from ovround.texts import Render

# What losses are estimated on, as in auto-round's AutoScheme; a smaller --nsamples or --seqlen holds for it too.
SAMPLES, SAMPLE_TOKENS = 16, 256
_NANOSECONDS = 1_000_000  # in a millisecond: costs are whole numbers

Cost = Callable[[str, WeightScheme | None], int]
"""Cost of a module with a scheme."""


@dataclass(frozen=True, slots=True, eq=False)
class BitBudget:
    """A budget that can be kept: what is to be chosen, the cost of each choice, and the text to estimate losses on.

    `groups` are modules that get the same width; `costs` has one entry a group, by bits; `fixed` is the cost of everything else.
    These and `limit` are whole numbers, and `scale` of them are one unit of the budget.
    """

    wanted: Budget
    groups: tuple[tuple[str, ...], ...]
    costs: tuple[dict[int, int], ...]
    fixed: int
    limit: int
    scale: float
    samples: NDArray[np.int64]
    seed: int


@dataclass(frozen=True, slots=True)
class BitAllocation:
    """The budget, and what the chosen bits come to, both in `unit`: bits a weight, bytes, or ms a token.

    `loss_rise_nats` is the estimated divergence from the original, a token, of the layers that were chosen for, were they
    rounded to nearest.
    """

    unit: Unit
    wanted: float
    reached: float
    loss_rise_nats: float


def build_budget(
    checkpoint: Checkpoint,
    decoder: Decoder,
    tokenizer: Tokenizer,
    plan: Plan,
    options: ConvertOptions,
    render: Render | None = None,
) -> BitBudget | None:
    """The budget of the options, None without one; imports no torch.

    Raises UsageError, naming the lowest and highest value, for a budget out of reach, and CalibrationError for too little text.
    """
    wanted = options.budget
    if wanted is None:
        return None
    groups = choosable(decoder, plan, options)
    if not groups:
        raise UsageError("budget has nothing to choose: layer rules state the bits of every linear layer")
    account = _COSTS[wanted.unit](checkpoint, decoder, plan, options)
    free = {module for group in groups for module in group}
    fixed = account.constant + sum(
        account.cost(module, plan[module]) for module in account.modules if module not in free
    )
    costs = tuple(
        {bits: sum(account.cost(module, _with_bits(plan[module], bits)) for module in group) for bits in BITS}
        for group in groups
    )
    lowest, highest = (fixed + sum(pick(cost.values()) for cost in costs) for pick in (min, max))
    limit = math.floor(wanted.value * account.scale)
    if not lowest <= limit <= highest:
        least = wanted.shown(lowest / account.scale, math.ceil)
        most = wanted.shown(highest / account.scale, math.floor)
        raise UsageError(
            f"budget is {wanted.shown(wanted.value)}; {least} to {most} can be reached",
            hint="--bits 8 takes no more than that" if limit > highest else _LOWER[wanted.unit],
        )
    samples = _samples(decoder, tokenizer, options, render)
    return BitBudget(wanted, groups, costs, fixed, limit, account.scale, samples, options.seed)


def widest(budget: BitBudget | None, plan: Plan) -> Plan:
    """`plan` with what is to be chosen at its most bits."""
    free = set() if budget is None else {name for group in budget.groups for name in group}
    return {name: _with_bits(scheme, max(BITS)) if name in free else scheme for name, scheme in plan.items()}


def allocate_bits(
    budget: BitBudget, checkpoint: Checkpoint, decoder: Decoder, plan: Plan
) -> tuple[Plan, BitAllocation]:
    """The plan with the least estimated loss within the budget; the same one for the same input. Computes with torch."""
    from ovround.quant.allocation.sensitivity import loss_rises  # torch: only where a budget asks for it

    schemes = {
        name: scheme for group in budget.groups for name in group if isinstance(scheme := plan[name], QuantScheme)
    }
    rises = loss_rises(checkpoint, decoder, budget.samples, schemes, BITS, budget.seed)
    classes = [
        [Choice(costs[bits], sum(rises[name][bits] for name in group)) for bits in BITS]
        for group, costs in zip(budget.groups, budget.costs, strict=True)
    ]
    chosen = allocate(classes, budget.limit - budget.fixed)
    picked = [choices[index] for choices, index in zip(classes, chosen, strict=True)]
    widths = {name: BITS[index] for group, index in zip(budget.groups, chosen, strict=True) for name in group}
    mixed: Plan = {
        name: _with_bits(scheme, widths[name]) if name in widths else scheme for name, scheme in plan.items()
    }
    reached = (budget.fixed + sum(choice.cost for choice in picked)) / budget.scale
    rise = math.fsum(choice.loss for choice in picked)
    return mixed, BitAllocation(budget.wanted.unit, budget.limit / budget.scale, reached, rise)


@dataclass(frozen=True, slots=True)
class BudgetCosts:
    """Costs in whole numbers, of which `scale` are one unit of the budget: of each of `modules`, and a constant."""

    cost: Cost
    modules: tuple[str, ...]
    constant: int
    scale: float


def _bits(checkpoint: Checkpoint, decoder: Decoder, plan: Plan, options: ConvertOptions) -> BudgetCosts:
    """Bits of codes, scales and zero points, an average over the weights of all quantised linear layers of the blocks."""
    shapes = decoder.every_tensor()

    def cost(module: str, scheme: WeightScheme | None) -> int:
        return int(exact_bits(shapes[f"{module}.weight"], scheme)) if isinstance(scheme, QuantScheme) else 0

    modules = tuple(name for name in _linears(decoder) if plan[name] is not None)
    return BudgetCosts(cost, modules, 0, sum(math.prod(shapes[f"{name}.weight"]) for name in modules))


def _bytes(checkpoint: Checkpoint, decoder: Decoder, plan: Plan, options: ConvertOptions) -> BudgetCosts:
    """Bytes of the weights file, padding and the graph's constants included, in the format that needs most for each weight."""
    formats = [sizes_of(name) for name in options.formats]
    shapes, infos = decoder.every_tensor(), checkpoint.tensors()

    def size(sizes: Sizes, name: str, scheme: WeightScheme | None) -> int:
        info = infos[name]
        return sizes.weight_bytes(name, shapes[name], scheme, info.size_bytes // math.prod(info.shape))

    def cost(module: str, scheme: WeightScheme | None) -> int:
        return max(size(sizes, f"{module}.weight", scheme) for sizes in formats)

    floats = [name for name in shapes if name.removesuffix(".weight") not in plan]
    constant = max(sizes.graph_bytes(decoder) + sum(size(sizes, name, None) for name in floats) for sizes in formats)
    return BudgetCosts(cost, tuple(plan), constant, 1)


def _nanoseconds(checkpoint: Checkpoint, decoder: Decoder, plan: Plan, options: ConvertOptions) -> BudgetCosts:
    """What the linear layers and the head take by the latency table."""
    assert options.budget is not None and options.budget.profile is not None  # noqa: S101, PT018  Budget sees to it
    source = options.budget.profile
    table = read_table(source)
    if options.formats != (table.format,):
        raise UsageError(
            f"latency table `{source}` was measured for {table.format}; the format is {', '.join(options.formats)}",
            hint=f"--format {table.format}, or a table for the other",
        )
    shapes, shares = decoder.every_tensor(), decoder.token_shares()

    def cost(module: str, scheme: WeightScheme | None) -> int:
        scheme = scheme if isinstance(scheme, QuantScheme) else None
        milliseconds = table.milliseconds(module, shapes[f"{module}.weight"], scheme, source)
        return round(milliseconds * shares.get(module, 1) * _NANOSECONDS)

    return BudgetCosts(cost, (*_linears(decoder), decoder.head_at), 0, _NANOSECONDS)


_COSTS = {"bits": _bits, "bytes": _bytes, "ms": _nanoseconds}
_LOWER = {
    "bits": "larger groups, --sym, or fewer layers that --layer fixes lower it",
    "bytes": "larger groups, --sym, --embedding-bits and --lm-head-bits lower it",
    "ms": "--lm-head-bits, or fewer layers that --layer fixes lower it",
}


def _samples(
    decoder: Decoder, tokenizer: Tokenizer, options: ConvertOptions, render: Render | None
) -> NDArray[np.int64]:
    context = decoder.config.max_position_embeddings
    count = min(SAMPLES, SAMPLES if options.nsamples is None else options.nsamples)
    length = min(SAMPLE_TOKENS, context, SAMPLE_TOKENS if options.seqlen is None else options.seqlen)
    fewer = replace(options, nsamples=count, seqlen=length)
    return calibrate(tokenizer, fewer, context, decoder.config.vocab_size, render).samples[:count]


def _linears(decoder: Decoder) -> list[str]:
    return [name for layer in range(decoder.config.num_hidden_layers) for name in decoder.linears(layer)]


def _with_bits(scheme: WeightScheme | None, bits: int) -> WeightScheme | None:
    return replace(scheme, bits=bits) if isinstance(scheme, QuantScheme) else scheme
