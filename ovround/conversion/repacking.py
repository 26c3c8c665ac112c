"""A quantised checkpoint's own integers as a conversion's tensors: nothing is tuned, and nothing that is quantised is rounded."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import replace

import numpy as np

from ovround.artifact.manifest import CODEBOOK_FORMATS, MANIFEST, BlockRecord, Quality, read_manifest
from ovround.checkpoint import PackedCheckpoint
from ovround.errors import CheckpointError, TensorError, UsageError
from ovround.models.decoder import HEAD, Decoder
from ovround.options.convert_options import ConvertOptions
from ovround.options.option import changed
from ovround.progress import OnProgress, Progress
from ovround.quant.emitted import Emitted
from ovround.quant.plan import Plan, check_experts, check_groups, weight_shapes
from ovround.tensors.float_tensor import FloatTensor
from ovround.tensors.qtensor import QTensor
from ovround.tensors.scheme import FLOAT_BITS, AffineScheme, QuantScheme, default_group_size

_ONNX_BLOCK, _OPENVINO_GROUP = 16, 4  # MatMulNBits' smallest block; what OpenVINO's CPU plugin fuses
_SCHEME = {"bits": "bits", "group_size": "group_size", "sym": "symmetric"}  # option -> field of a QuantScheme


def stored_plan(source: PackedCheckpoint, decoder: Decoder, options: ConvertOptions) -> Plan:
    """The scheme of each module as it is stored; an embedding or head still in float is rounded to the requested bits.

    Raises UsageError for options that would tune, or that contradict what is stored, and CheckpointError for codebooks.
    """
    linears = [name for layer in range(decoder.config.num_hidden_layers) for name in decoder.linears(layer)]
    shapes = weight_shapes(decoder)
    modules = [decoder.embedding_at, *linears, *([HEAD] if decoder.head_at == HEAD else [])]
    plan: Plan = {}
    for name in modules:
        scheme = source.scheme(name)
        plan[name] = _held(scheme, shapes[f"{name}.weight"]) if isinstance(scheme, QuantScheme) else scheme
    coded = [name for name in plan if source.packed(name) and plan[name] is None]
    _check_codebooks(source, coded, decoder, options)
    stored = {name: scheme for name, scheme in plan.items() if isinstance(scheme, QuantScheme | AffineScheme)}
    _check_options(source, stored, options)
    _check_groups_of_engines(stored, shapes, options)
    asked = {decoder.embedding_at: options.embedding_bits, HEAD: options.lm_head_bits}
    rounded: Plan = {}
    for module, bits in asked.items():
        if bits is None:
            continue
        inputs = shapes[f"{module}.weight"][1]
        group_size = options.group_size or default_group_size(inputs, options.largest_default_group)
        asked_scheme = None if bits == FLOAT_BITS else QuantScheme(bits, group_size, options.sym)
        if module in stored:
            if stored[module].bits != bits:
                raise _contradiction(
                    source, f"{'lm-head' if module == HEAD else 'embedding'}-bits is {bits}", module, stored
                )
            continue
        rounded[module] = plan[module] = asked_scheme
    if decoder.head_at != HEAD and HEAD in plan and plan[HEAD] == plan[decoder.embedding_at]:
        del plan[HEAD]  # tied, and the same scheme: one tensor serves both
    check_groups(decoder, rounded)
    check_experts(decoder, plan)
    return plan


def _check_codebooks(source: PackedCheckpoint, coded: list[str], decoder: Decoder, options: ConvertOptions) -> None:
    """Raise CheckpointError for codebooks that a format cannot hold, UsageError for integers beside them."""
    if not coded:
        return
    unfit = next((name for name in options.formats if name not in CODEBOOK_FORMATS), None)
    if unfit is not None:
        raise CheckpointError(
            f"`{coded[0]}` is made of codebooks ({source.method}), which {unfit} cannot hold",
            hint="--format openvino or onnx holds them; for others start from the original, unquantised checkpoint",
        )
    stacked, decoded = decoder.stacked(), decoder.decoded()
    for name in coded:
        if name == decoder.embedding_at or name in stacked or name in decoded:
            kind = (
                "expert" if name in stacked else "embedding" if name == decoder.embedding_at else "absorbed projection"
            )
            raise CheckpointError(
                f"`{name}` is an {kind} made of codebooks ({source.method}): only linear layers may be"
            )
    rounds = any(bits not in (None, FLOAT_BITS) for bits in (options.embedding_bits, options.lm_head_bits))
    for entry in changed(options):
        if entry.name in _SCHEME and (entry.name == "bits" or not rounds):
            raise UsageError(
                f"{entry.label} is {getattr(options, entry.name)}, yet `{coded[0]}` of `{source.folder}` is made of codebooks",
                hint="codes are kept as they are: leave it out, or start from the original, unquantised checkpoint",
            )


def _held(scheme: QuantScheme, shape: tuple[int, ...]) -> QuantScheme:
    """The scheme as a `QTensor` holds it: a short last group makes all groups as short as divides both."""
    if scheme.group_size == -1 or scheme.group_size >= shape[1]:
        return replace(scheme, group_size=-1)
    return replace(scheme, group_size=math.gcd(scheme.group_size, shape[1]))


def _check_groups_of_engines(
    stored: Mapping[str, QuantScheme | AffineScheme], shapes: dict[str, tuple[int, ...]], options: ConvertOptions
) -> None:
    """Raise UsageError for groups that a format cannot hold, even when divided."""
    least = {"onnx": _ONNX_BLOCK, "openvino": _OPENVINO_GROUP}
    for format_name in options.formats:
        for name, scheme in stored.items():
            if not isinstance(scheme, QuantScheme):
                continue  # for the native operator
            size = scheme.group_size
            if (
                format_name in least
                and size != -1
                and (size < least[format_name] or (format_name == "onnx" and size % _ONNX_BLOCK))
            ):
                raise UsageError(
                    f"`{name}` {list(shapes[f'{name}.weight'])} is in groups of {size}, "
                    f"{format_name} takes {least[format_name]} or more"
                    f"{', in multiples of that' if format_name == 'onnx' else ''}",
                    hint="--format openvino takes groups of 4"
                    if format_name == "onnx"
                    else "start from the original checkpoint",
                )


def _check_options(
    source: PackedCheckpoint, stored: Mapping[str, QuantScheme | AffineScheme], options: ConvertOptions
) -> None:
    for entry in changed(options):
        if "quantised" not in entry.option.sources:
            raise UsageError(
                f"{entry.label} is given, yet `{source.folder}` is quantised already ({source.method}): nothing is tuned",
                hint=_way_out(source),
            )
    rounds = any(bits not in (None, FLOAT_BITS) for bits in (options.embedding_bits, options.lm_head_bits))
    for entry in changed(options):
        if entry.name not in _SCHEME or (rounds and entry.name != "bits"):
            continue
        value, attribute = getattr(options, entry.name), _SCHEME[entry.name]
        other = next((name for name, scheme in stored.items() if getattr(scheme, attribute) != value), None)
        if other is not None:
            raise _contradiction(source, f"{entry.label} is {value}", other, stored)


def _contradiction(
    source: PackedCheckpoint, said: str, module: str, stored: Mapping[str, QuantScheme | AffineScheme]
) -> UsageError:
    scheme = stored[module]
    scheme_words = (
        f"{scheme.bits} bits, group size {scheme.group_size}, {'symmetric' if scheme.symmetric else 'asymmetric'}"
    )
    return UsageError(
        f"{said}, yet `{module}` of `{source.folder}` has {scheme_words}",
        hint=f"integers are kept as they are: {_way_out(source)}",
    )


def _way_out(source: PackedCheckpoint) -> str:
    if source.method == "gguf":
        return "leave it out; or --recipe default, which tunes the numbers that the file's integers stand for"
    return "leave it out, or start from the original, unquantised checkpoint"


def repacked(
    source: PackedCheckpoint, decoder: Decoder, plan: Plan, on_progress: OnProgress, *, wide_scales: bool = True
) -> Iterator[Emitted]:
    """Every tensor in the model's order. `relative_error` is against what is stored: 0 but for what is rounded here.

    `wide_scales`: the formats hold float32 scales. Otherwise, and for experts, scales that float16 lacks are rounded to it.
    """
    shapes, blocks, stacked = weight_shapes(decoder), decoder.config.num_hidden_layers, decoder.stacked()

    def emitted(name: str) -> Emitted:
        weight = source.read(name, shapes[name])
        scheme = plan.get(name.removesuffix(".weight"))
        wide = wide_scales and name.removesuffix(".weight") not in stacked
        if isinstance(weight, QTensor) and weight.scale_bits > FLOAT_BITS and not wide:
            return _with_float16_scales(name, weight)
        if not isinstance(weight, FloatTensor) or not isinstance(scheme, QuantScheme) or not name.endswith(".weight"):
            return Emitted(name, weight, source.relative_error(name))
        from ovround.quant.integers.rtn import round_to_nearest  # torch: only where something is rounded

        return Emitted(name, *round_to_nearest(name, weight, scheme, wide_scales=wide))

    yield from map(emitted, decoder.first_tensors())
    for layer in range(blocks):
        yield from map(emitted, decoder.tensors(layer))
        on_progress(Progress("quantise", layer + 1, blocks))
    yield from map(emitted, sorted(decoder.last_tensors(), key=lambda name: name == f"{HEAD}.weight"))


def _with_float16_scales(name: str, weight: QTensor) -> Emitted:
    """The weight with its scales rounded to float16, and what that changes; raises TensorError for a scale beyond float16."""
    try:
        narrow = weight.with_float16_scales()
    except ValueError as error:
        raise TensorError(
            f"`{name}`: {error}", hint="--format openvino, onnx, compressed-tensors or olive holds float32 scales"
        ) from error
    values = weight.dequantize()
    size = float(np.linalg.norm(values))
    return Emitted(name, narrow, float(np.linalg.norm(narrow.dequantize() - values)) / size if size else 0.0)


def tuning_records(source: PackedCheckpoint) -> tuple[tuple[BlockRecord, ...], Quality | None]:
    """What was measured when these integers were tuned, where ovround did it: blocks and quality of the source's manifest."""
    if not (source.folder / MANIFEST).is_file():
        return (), None
    manifest = read_manifest(source.folder)
    return manifest.blocks, manifest.quality
