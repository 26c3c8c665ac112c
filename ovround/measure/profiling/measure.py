"""The latency table of a model's linear layers on this device, measured on graphs of linear layers alone."""

from __future__ import annotations

import importlib
import statistics
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from contextlib import ExitStack
from importlib.metadata import version
from pathlib import Path
from types import ModuleType

import numpy as np

from ovround.artifact.manifest import ENGINE_FORMATS
from ovround.checkpoint import Checkpoint, locate, mapped, open_checkpoint
from ovround.checkpoint.files.element_types import FLOAT_TYPES
from ovround.conversion.latency_table import LatencyRow, LatencyTable
from ovround.errors import MissingExtraError, UsageError
from ovround.exporters.formats import sizes_of
from ovround.models import from_config
from ovround.models.decoder import Decoder
from ovround.runtime.devices import last_cache_bytes
from ovround.tensors.float_tensor import FloatTensor, FloatType
from ovround.tensors.qtensor import BITS, GROUP_SIZES, QTensor
from ovround.tensors.scheme import FLOAT_BITS, QuantScheme, default_group_size

Shape = tuple[int, int]
OnShape = Callable[[Shape, int, int], None]
"""Receives the shape that is measured next, its index, and the number of shapes."""

_LEAST_COPIES, _MOST_COPIES = 4, 256
_MOST_BYTES = 512 << 20  # of all copies of one weight
_WARM_UP_RUNS = 2
_LINEAR = "linear.weight"  # the name for sizes: neither an embedding nor an expert
_LIBRARIES = {"openvino": "openvino", "onnx": "onnxruntime"}


def measure(
    model: str,
    *,
    format: str = "openvino",  # noqa: A002  the flag's own name
    device: str = "CPU",
    group_size: int | None = None,
    sym: bool = True,
    threads: int | None = None,
    repeat: int = 15,
    on_shape: OnShape | None = None,
) -> LatencyTable:
    """Median milliseconds of one token through each shape of linear layer of `model`, head included, at each bit width.

    A single weight would stay in the cache, but decoding always reads it from memory. So each graph holds distinct copies
    of the weight: as many bytes as all linear layers take at these bits, but at most twice the last-level cache. Runs at
    different bits alternate, so that a disturbance affects all of them. Widths that the format stores alike are measured
    once. Raises UsageError, EngineError, and the errors of `open_checkpoint`.
    """
    if format not in ENGINE_FORMATS:
        raise UsageError(f"format is `{format}`; allowed: {', '.join(ENGINE_FORMATS)}")
    if group_size is not None and group_size not in GROUP_SIZES:
        raise UsageError(f"group-size is `{group_size}`; allowed: {', '.join(map(str, GROUP_SIZES))}")
    for name, value in (("repeat", repeat), ("threads", threads)):
        if value is not None and value < 1:
            raise UsageError(f"{name} is {value}; a whole number of 1 or more is needed")
    checkpoint = open_checkpoint(locate(model))
    decoder = from_config(checkpoint.config)
    checkpoint = mapped(checkpoint, decoder.sources(), decoder.every_tensor())
    shapes = linear_shapes(decoder)
    for shape in shapes:
        if group_size is not None and group_size > 0 and shape[1] % group_size:
            raise UsageError(
                f"group size {group_size} does not divide the {shape[1]} inputs of a {shape[0]} x {shape[1]} weight"
            )
    try:
        probe = importlib.import_module(f"ovround.measure.profiling.{format}")
        sizes = sizes_of(format)
    except ModuleNotFoundError as error:
        raise MissingExtraError(error.name or format, "convert") from error
    full_name = str(probe.device_name(device))
    dtype = _float_type(checkpoint, decoder)
    widths = (*BITS, FLOAT_BITS)
    item_bytes = 4 if dtype == "float32" else 2
    stored = {
        (shape, bits): sizes.weight_bytes(_LINEAR, shape, _scheme(shape, bits, group_size, sym), item_bytes)
        for shape in shapes
        for bits in widths
    }
    rows = []
    for number, shape in enumerate(shapes):
        if on_shape is not None:
            on_shape(shape, number, len(shapes))
        alike = {stored[shape, bits]: bits for bits in widths}  # the widest of the widths that take the same bytes
        weights = {bits: _weight(shape, _scheme(shape, bits, group_size, sym), dtype) for bits in alike.values()}
        copies = {
            bits: _copies(stored[shape, bits], sum(stored[other, bits] * count for other, count in shapes.items()))
            for bits in weights
        }
        medians = _medians(probe, weights, copies, device, threads, repeat)
        rows += [LatencyRow(*shape, bits, round(medians[alike[stored[shape, bits]]], 6)) for bits in widths]
    library = _LIBRARIES[format]
    return LatencyTable(
        format, device, full_name, threads, group_size, sym, {library: version(library)}, tuple(rows)
    )  # fmt: skip


def _scheme(shape: Shape, bits: int, group_size: int | None, sym: bool) -> QuantScheme | None:
    if bits == FLOAT_BITS:
        return None
    return QuantScheme(bits, default_group_size(shape[1]) if group_size is None else group_size, sym)


def linear_shapes(decoder: Decoder) -> dict[Shape, int]:
    """The shapes `[N, K]` of all linear layers of a decoding step, the head last, with the number of layers of each."""
    counts: Counter[Shape] = Counter()
    for layer in range(decoder.config.num_hidden_layers):
        tensors = decoder.tensors(layer)
        for name in decoder.linears(layer):
            rows, columns = tensors[f"{name}.weight"]
            counts[rows, columns] += 1
    rows, columns = decoder.tensors()[f"{decoder.head_at}.weight"]
    counts[rows, columns] += 1
    return dict(counts)


def _copies(size_bytes: int, model_bytes: int) -> int:
    wanted = min(model_bytes, 2 * last_cache_bytes() or model_bytes, _MOST_BYTES)
    return min(max(-(-wanted // size_bytes), _LEAST_COPIES), _MOST_COPIES)


def _medians(
    probe: ModuleType,
    weights: dict[int, QTensor | FloatTensor],
    copies: dict[int, int],
    device: str,
    threads: int | None,
    repeat: int,
) -> dict[int, float]:
    """Median milliseconds of one product at each bit width."""
    seconds: dict[int, list[float]] = {bits: [] for bits in weights}
    with ExitStack() as stack:
        runs = {}
        for bits, weight in weights.items():
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory(ignore_cleanup_errors=True)))
            distinct = [_rolled(weight, number) for number in range(copies[bits])]
            runs[bits] = probe.compiled(folder, distinct, device, threads)
        for _ in range(_WARM_UP_RUNS + repeat):
            for bits, run in runs.items():
                start = time.perf_counter()
                run()
                seconds[bits].append(time.perf_counter() - start)
        runs.clear()
    return {bits: statistics.median(times[_WARM_UP_RUNS:]) / copies[bits] * 1e3 for bits, times in seconds.items()}


def _weight(shape: Shape, scheme: QuantScheme | None, dtype: FloatType) -> QTensor | FloatTensor:
    """A weight of random levels; their values do not change the latency."""
    rng = np.random.default_rng(0)
    rows, columns = shape
    if scheme is None:
        if dtype == "bfloat16":  # bit patterns of numbers between 1 and 2
            return FloatTensor(rng.integers(0x3F80, 0x4000, shape, np.uint16), dtype)
        return FloatTensor(rng.random(shape, np.float32).astype(dtype), dtype)
    groups = 1 if scheme.group_size == -1 else columns // scheme.group_size
    zero_points = None if scheme.symmetric else np.full((rows, groups), 1 << (scheme.bits - 1), np.uint8)
    codes = rng.integers(0, 1 << scheme.bits, shape, np.uint8)
    return QTensor(codes, np.full((rows, groups), 1e-3, np.float16), zero_points, scheme.bits)


def _rolled(weight: QTensor | FloatTensor, number: int) -> QTensor | FloatTensor:
    """The weight with its rows rotated by `number`: other bytes, so that an engine cannot share one constant for all copies."""
    if isinstance(weight, FloatTensor):
        return FloatTensor(np.roll(weight.data, number, axis=0), weight.dtype)
    return QTensor(np.roll(weight.codes, number, axis=0), weight.scales, weight.zero_points, weight.bits)


def _float_type(checkpoint: Checkpoint, decoder: Decoder) -> FloatType:
    return FLOAT_TYPES[checkpoint.tensors()[f"{decoder.linears(0)[0]}.weight"].dtype]
