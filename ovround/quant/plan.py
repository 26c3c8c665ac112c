"""The scheme of each weight: general options, exceptions, and the checks that shapes allow it."""

from __future__ import annotations

import math
import re
from dataclasses import replace

from ovround.artifact.manifest import CHECKPOINT_FORMATS, FILE_FORMATS
from ovround.errors import UsageError
from ovround.models.decoder import HEAD, Decoder
from ovround.options.convert_options import HEAD_BITS, ConvertOptions
from ovround.tensors.qtensor import GROUP_SIZES
from ovround.tensors.scheme import FLOAT_BITS, Codebooks, QuantScheme, WeightScheme, default_group_size

Plan = dict[str, WeightScheme | None]
END_TO_END_TOKENS = (
    2048  # a batch of the end-to-end pass is computed in parts of about so many: memory does not grow with it
)


def make_plan(decoder: Decoder, options: ConvertOptions) -> Plan:
    """The scheme of each module with a weight matrix, None for one that stays in float; in the order of the model.

    An embedding or head whose bits are not stated is symmetric in a GGUF file. A tied head whose bits differ from the
    embedding's appears as a module of its own. Beside codebooks `decoded` layers have 8 bits. The last rule that matches wins.
    Raises UsageError for a rule that matches nothing and for a stated group size that does not divide a weight's inputs.
    """
    # what loads checkpoints expects embedding and head in float
    floating = options.bits == FLOAT_BITS or any(name in CHECKPOINT_FORMATS for name in options.formats)
    other = FLOAT_BITS if floating else HEAD_BITS
    embedding_bits = other if options.embedding_bits is None else options.embedding_bits
    head_bits = other if options.lm_head_bits is None else options.lm_head_bits
    linears = {name for layer in range(decoder.config.num_hidden_layers) for name in decoder.linears(layer)}
    bits = {decoder.embedding_at: embedding_bits}
    for layer in range(decoder.config.num_hidden_layers):
        bits |= dict.fromkeys(decoder.linears(layer), options.bits)
    bits[HEAD] = head_bits
    # a GGUF file has no type for zero points in 8 bits
    symmetric = {decoder.embedding_at: options.embedding_bits, HEAD: options.lm_head_bits}
    symmetric = symmetric if set(options.formats) & set(FILE_FORMATS) else {}
    unused = {rule.pattern for rule in options.layers}
    codebooks, decoded = options.linear_codebooks, decoder.decoded()
    shapes = weight_shapes(decoder)
    plan: Plan = {}
    for name, general in bits.items():
        chosen, group_size = general, options.group_size
        sym = options.sym or symmetric.get(name, general) is None
        for rule in options.layers:
            if re.search(rule.pattern, name):
                unused.discard(rule.pattern)
                chosen = chosen if rule.bits is None else rule.bits
                group_size = group_size if rule.group_size is None else rule.group_size
                sym = sym if rule.sym is None else rule.sym
        stated = any(rule.bits is not None and re.search(rule.pattern, name) for rule in options.layers)
        if codebooks is not None and name in decoded and not stated:
            group = default_group_size(shapes[f"{name}.weight"][1], options.largest_default_group)
            plan[name] = QuantScheme(HEAD_BITS, group, sym)
        elif codebooks is not None and name in linears and not stated:
            plan[name] = codebooks
        else:
            group = group_size or default_group_size(shapes[f"{name}.weight"][1], options.largest_default_group)
            plan[name] = None if chosen == FLOAT_BITS else QuantScheme(chosen, group, sym)
    if unused:
        raise UsageError(
            f"layer rule `{sorted(unused)[0]}` matches no module", hint=f"modules are named like `{next(iter(bits))}`"
        )
    if decoder.head_at != HEAD and plan[HEAD] == plan[decoder.embedding_at]:
        del plan[HEAD]  # tied, and the same scheme: one tensor serves both
    check_experts(decoder, plan)
    check_groups(decoder, plan)
    if codebooks is not None:
        check_codebooks(decoder, plan, codebooks)
    return plan


def choosable(decoder: Decoder, plan: Plan, options: ConvertOptions) -> tuple[tuple[str, ...], ...]:
    """The linear layers whose bits no rule states, in the groups that engines fuse: a budget chooses one width for each group."""
    stated = [rule.pattern for rule in options.layers if rule.bits is not None]
    groups = [group for layer in range(decoder.config.num_hidden_layers) for group in decoder.fused(layer)]
    free = (
        tuple(name for name in group if plan[name] and not any(re.search(pattern, name) for pattern in stated))
        for group in groups
    )
    return tuple(group for group in free if group)


def weight_shapes(decoder: Decoder) -> dict[str, tuple[int, ...]]:
    """The shape of every tensor that a conversion may write, the tied head's own copy included."""
    shapes = decoder.tensors()
    for layer in range(decoder.config.num_hidden_layers):
        shapes |= decoder.tensors(layer)
    shapes.setdefault(f"{HEAD}.weight", shapes[f"{decoder.embedding_at}.weight"])
    return shapes


def check_groups(decoder: Decoder, plan: Plan) -> None:
    """Raise UsageError when a group size does not divide the inputs of the weight that it is meant for."""
    shapes = weight_shapes(decoder)
    for name, scheme in plan.items():
        if not isinstance(scheme, QuantScheme) or scheme.group_size == -1:
            continue
        inputs = shapes[f"{name}.weight"][1]
        if inputs % scheme.group_size:
            fitting = [str(size) for size in GROUP_SIZES if size > 0 and inputs % size == 0]
            short = name.rpartition(".")[2]
            hint = f"--group-size {fitting[-1]} divides it, or " if fitting else ""
            raise UsageError(
                f"group size {scheme.group_size} does not divide the {inputs} inputs of `{name}`",
                hint=f"{hint}--layer '{short}=group_size:-1' gives each of its rows one scale",
            )


def check_experts(decoder: Decoder, plan: Plan) -> None:
    """Raise UsageError when experts of a layer, which engines hold in one tensor, have different schemes."""
    for layer in range(decoder.config.num_hidden_layers):
        for stacked_at, stack in decoder.expert_stacks(layer).items():
            other = next((name for name in stack if plan[name] != plan[stack[0]]), None)
            if other is not None:
                experts_at, _, kind = stacked_at.removeprefix(f"{decoder.block_at(layer)}.").rpartition(".")
                raise UsageError(
                    f"`{stack[0]}` and `{other}` have different bits or groups; engines hold a layer's experts in one tensor",
                    hint=f"a rule for all of them: --layer '{experts_at}.*{kind}=...'",
                )


def check_codebooks(decoder: Decoder, plan: Plan, layout: Codebooks) -> None:
    """Raise UsageError where vectors do not divide a weight's inputs, and where codebooks take more than the codes they serve."""
    shapes = {
        name: shape
        for name, shape in weight_shapes(decoder).items()
        if isinstance(plan.get(name.removesuffix(".weight")), Codebooks)
    }
    if not shapes:
        return
    for name, (_, inputs) in shapes.items():
        if inputs % layout.vector_size:
            raise UsageError(
                f"vectors of {layout.vector_size} do not divide the {inputs} inputs of `{name.removesuffix('.weight')}`",
                hint="smaller vectors, such as --codebooks 2x8:4",
            )
    weights = sum(rows * columns for rows, columns in shapes.values())
    entries = layout.entry_bits * len(shapes) / weights
    if entries <= layout.code_bits:
        return
    total = sum(layout.size_bits(shape) for shape in shapes.values()) / weights
    smallest = min(shapes, key=lambda name: math.prod(shapes[name]))
    alone = layout.size_bits(shapes[smallest]) / math.prod(shapes[smallest])
    fitting = next((bits for bits in range(layout.bits, 0, -1) if _entries_fit(layout, bits, len(shapes), weights)), 0)
    raise UsageError(
        f"codebooks {layout} of vectors of {layout.vector_size} come to {total:.2f} bits a weight: {layout.code_bits:.2f} for "
        f"codes and {entries:.2f} for {layout.count * 2**layout.bits} entries a layer; "
        f"`{smallest}` {list(shapes[smallest])} alone takes {alone:.2f}",
        hint=f"--codebooks {replace(layout, bits=fitting).spec}"
        if fitting
        else "smaller vectors, or integers with --bits",
    )


def _entries_fit(layout: Codebooks, bits: int, layers: int, weights: int) -> bool:
    smaller = replace(layout, bits=bits)
    return smaller.entry_bits * layers / weights <= smaller.code_bits / 4
