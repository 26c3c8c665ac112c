"""The table of `ovround fit`: a row for each width of bits, and which of them fits this machine best."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from ovround.conversion.fit.memory import longest_context, memory_bytes, resident_bytes, token_bytes
from ovround.conversion.fit.outline import Outline, outline
from ovround.conversion.written_sizes import written_sizes
from ovround.errors import EngineError, UsageError
from ovround.exporters.formats import sizes_of
from ovround.measure.fit.losses import MeasuredLoss, nearest_loss
from ovround.measure.fit.machine import MachineSpeed, machine_speed
from ovround.measure.fit.rates import token_seconds
from ovround.measure.fit.tuning_time import tune_seconds
from ovround.models.decoder import EMBEDDING, HEAD, Decoder
from ovround.options.convert_options import ConvertOptions
from ovround.runtime.engines import onnx_operator
from ovround.runtime.engines.native.operator import choose_library
from ovround.runtime.memory import total_bytes

WIDTHS = (8, 4, 3, 2)
DEFAULT_CONTEXT = 4096
READING_RATE = 10.0  # tokens a second: as fast as people read
_USABLE = 0.9  # of the memory; the rest is the system's


@dataclass(frozen=True, slots=True)
class FitRow:
    """A width: what it takes and what it costs; `resident_bytes` are its weights in memory.

    `loss` None: the integers are kept, or nothing was measured.

    `tune_s` is the time to tune by the default recipe, 0 where nothing is tuned.
    """

    bits: int
    file_bytes: int
    resident_bytes: int
    memory_bytes: int
    token_s: float
    loss: MeasuredLoss | None
    tune_s: float
    fits: bool
    best: bool = False


@dataclass(frozen=True, slots=True)
class Fit:
    """A model on this machine. `method` names the quantisation that is kept, whatever is asked for; then there is one row."""

    model: str
    format: str
    context: int
    longest_context: int
    parameters: int
    method: str
    download_bytes: int
    usable_bytes: int | None
    bandwidth: float
    rows: tuple[FitRow, ...]
    most_context: int
    """The longest context that fits in the narrowest width, 0 where none does."""

    @property
    def best(self) -> FitRow | None:
        return next((row for row in self.rows if row.best), None)


def fit(model: str, context: int | None = None, format_name: str = "openvino") -> Fit:
    """What `model` takes here at each width; nothing but headers is read, or fetched from the hub.

    Raises UsageError for a context that the model does not have, and what `outline` raises.
    """
    known = outline(model)
    options = ConvertOptions(formats=(format_name,))
    decoder, _, _ = known.planned(options)
    longest = decoder.config.max_position_embeddings
    if context is not None and not 1 <= context <= longest:
        raise UsageError(f"context is {context}; the model allows 1 to {longest}")
    tokens = min(longest, DEFAULT_CONTEXT) if context is None else context
    total = total_bytes()
    usable = None if total is None else int(total * _USABLE)
    speed = machine_speed()
    widths = (options.bits,) if known.method else WIDTHS
    rows = [_row(known, format_name, bits, tokens, usable, speed) for bits in widths]
    best = _best(rows)
    narrowest = (decoder, format_name, rows[-1].resident_bytes, known.tokenizer_bytes)
    most = longest if usable is None else longest_context(*narrowest, usable)
    return Fit(
        model, format_name, tokens, longest, sum(math.prod(shape) for shape in decoder.every_tensor().values()),
        known.method, known.download_bytes, usable, speed.bandwidth,
        tuple(replace(row, best=row is best) for row in rows),
        most,
    )  # fmt: skip


def best_bits(model: str, format_name: str) -> FitRow | None:
    """The row that a command takes where no bits are asked for; None for a model whose integers are kept.

    Raises EngineError where no width fits this machine, with what would.
    """
    found = fit(model, None, format_name)
    if found.best is None:
        raise refusal(found, asked=True)
    return None if found.method else found.best


def refusal(found: Fit, *, asked: bool = False) -> EngineError:
    """The error for a model that does not fit, with what would; `asked`: by a command that runs it, which takes --bits."""
    least = found.rows[-1]
    assert found.usable_bytes is not None  # noqa: S101  for the type checker: where memory is unknown everything fits
    way = f"`ovround fit {found.model} --context {found.most_context}` fits"
    if asked and found.method:
        way = f"`ovround convert {found.model} FOLDER` keeps it, and a chat of {found.most_context} tokens fits"
    elif asked:
        way = f"--bits {least.bits} takes it all the same, for a chat of at most {found.most_context} tokens"
    return EngineError(
        f"`{found.model}` does not fit: {least.bits} bits with a context of {found.context} take about "
        f"{least.memory_bytes / 1e9:.2f} GB; {found.usable_bytes / 1e9:.2f} GB may be used here",
        hint=f"{f'{way}, or ' if found.most_context else ''}a smaller model, or a machine with "
        f"{least.memory_bytes / _USABLE / 1e9:.1f} GB of memory",
    )


def _row(known: Outline, format_name: str, bits: int, context: int, usable: int | None, speed: MachineSpeed) -> FitRow:
    options = (
        ConvertOptions(formats=(format_name,)) if known.method else ConvertOptions(formats=(format_name,), bits=bits)
    )
    decoder, plan, item_bytes = known.planned(options)
    sizes = written_sizes(format_name, decoder, plan, item_bytes)
    file_bytes = sum(sizes.values()) + sizes_of(format_name).graph_bytes(decoder)
    resident = resident_bytes(decoder, plan, sizes)
    memory = memory_bytes(decoder, format_name, resident, known.tokenizer_bytes, context)
    read = bytes_read(decoder, sizes) + context * token_bytes(decoder, format_name)
    if known.method:
        linears = [scheme for name, scheme in plan.items() if name in set(decoder.linears(0)) and scheme is not None]
        bits = linears[0].bits if linears else bits
    library = (
        choose_library("auto", "CPU", exact=False, properties={})
        if format_name == "openvino"
        else onnx_operator.choose_library("auto", exact=False)
    )
    kernel = "engine" if library is None else "native"
    parameters = sum(math.prod(shape) for shape in decoder.every_tensor().values())
    return FitRow(
        bits=bits,
        file_bytes=file_bytes,
        resident_bytes=resident,
        memory_bytes=memory,
        token_s=token_seconds(speed, format_name, kernel, bits, decoder.config.num_hidden_layers, read),
        loss=None if known.method else nearest_loss(parameters, bits),
        tune_s=0.0 if known.method else tune_seconds(decoder, plan, options, speed),
        fits=usable is None or memory <= usable,
    )


def bytes_read(decoder: Decoder, sizes: dict[str, int]) -> int:
    """Bytes of weights that a token reads: one row of an embedding that is no head, and of the experts those that it chooses."""
    shares, shapes = decoder.token_shares(), decoder.every_tensor()
    total = 0.0
    for name, size in sizes.items():
        if name == f"{EMBEDDING}.weight" and f"{HEAD}.weight" in shapes:
            total += size / shapes[name][0]
        else:
            total += size * shares.get(name.removesuffix(".weight"), 1.0)
    return int(total)


def _best(rows: list[FitRow]) -> FitRow | None:
    """The widest that fits and is as fast as people read; where none is, the fastest that fits."""
    fitting = [row for row in rows if row.fits]
    quick = next((row for row in fitting if 1 / row.token_s >= READING_RATE), None)
    return quick or min(fitting, key=lambda row: row.token_s, default=None)
