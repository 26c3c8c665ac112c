"""The checks of a conversion before any work begins: headers, options, text, output and memory."""

from __future__ import annotations

import importlib.util
import math
from dataclasses import dataclass, replace
from pathlib import Path

from ovround.artifact.manifest import CHECKPOINT_FORMATS, FILE_FORMATS
from ovround.artifact.output_folder import check_output, check_space
from ovround.checkpoint import (
    Checkpoint,
    GgufCheckpoint,
    PackedCheckpoint,
    locate,
    mapped,
    mapped_packed,
    read_json,
)
from ovround.checkpoint.files.small_files import check_links
from ovround.conversion.adapted_source import open_adapted
from ovround.conversion.bit_budget import BitAllocation, BitBudget, build_budget, widest
from ovround.conversion.end_tokens import read_end_tokens
from ovround.conversion.repacking import stored_plan
from ovround.conversion.stored_head import with_stored_head
from ovround.conversion.time_choice import Choice
from ovround.conversion.tuning import resolve, with_choices
from ovround.conversion.written_sizes import written_sizes
from ovround.errors import MissingExtraError, UsageError
from ovround.exporters.checkpoints import check_format
from ovround.exporters.formats import sizes_of
from ovround.exporters.gguf.suitability import check_gguf
from ovround.heap import return_freed_memory
from ovround.models import from_config
from ovround.models.calls import expert_specs
from ovround.models.decoder import HEAD, Decoder
from ovround.models.tied_head import sources_of_untied, with_head
from ovround.options.convert_options import ConvertOptions, resolved_recipe
from ovround.options.tuning_settings import TuningSettings
from ovround.quant.calibration.samples import Calibration, calibrate
from ovround.quant.distributed.launch import Launch
from ovround.quant.memory import maps_activations, memory_need
from ovround.quant.plan import Plan, make_plan
from ovround.quant.plan_file import read_plan
from ovround.source_tokenizer import chat_renderer, ids_without_rows, load_tokenizer

# Copied unchanged; a damaged one would only be noticed when the finished folder is loaded.
CARRIED_SETTINGS = ("tokenizer_config.json", "special_tokens_map.json")
_WORKING_FORMAT = "auto_round"  # of the tuned blocks that are kept until the output is complete
_SMALL_FILES_BYTES = 32 << 20  # graphs, tokenizers and text beside the weights, generously


@dataclass(frozen=True, slots=True)
class Job:
    """A conversion whose preconditions all hold.

    `decoder` is final: its head is tied, or has a weight of its own that the source gives like any other. `options` name the
    device and the codebooks that are used; `settings` say how the model is tuned. `quantised` is the source whose integers are
    kept, where `checkpoint` is quantised already. `needed_bytes` on the disk of `out` include working files, and are 0 for a
    process that writes nothing. `end_token_ids` end an answer. `notes` are sentences about how the source is read.
    `choice` is what was chosen to end near a given time.
    """

    name: str
    out: Path
    options: ConvertOptions
    settings: TuningSettings
    checkpoint: Checkpoint
    decoder: Decoder
    plan: Plan
    calibration: Calibration | None
    activations_in_files: bool
    launch: Launch
    budget: BitBudget | None = None
    allocation: BitAllocation | None = None
    quantised: PackedCheckpoint | None = None
    needed_bytes: int = 0
    end_token_ids: tuple[int, ...] = ()
    notes: tuple[str, ...] = ()
    choice: Choice | None = None


def prepare(model: str, out: Path, options: ConvertOptions, memory_limit_bytes: int | None = None) -> Job:
    """Open and check source, options, text, output and memory; takes well under a second and imports no torch.

    Torch is imported where a device other than the CPU is asked for, which only it can find.
    """
    launch = Launch.from_environment()
    if launch.is_main:
        check_output(out)
    source = as_asked(open_adapted(locate(model), options.adapter), options)
    return_freed_memory()  # the vocabulary of a GGUF file
    folder = source.folder
    checkpoint, quantised, decoder, plan, notes = plan_source(source, options)
    for name in options.formats:
        if name in CHECKPOINT_FORMATS:
            check_format(name, decoder, plan)
        elif name in FILE_FORMATS:
            check_gguf(decoder, folder, checkpoint.config, plan, kept=quantised is not None)
    check_links(folder)
    for carried in CARRIED_SETTINGS:
        if (folder / carried).is_file():
            read_json(folder / carried)
    tokenizer = load_tokenizer(folder)
    ends = read_end_tokens(folder, tokenizer, decoder.config.vocab_size)
    notes += ids_without_rows(tokenizer, decoder.config.vocab_size) + ends.notes + _slow_experts(decoder, options)
    blocks = range(decoder.config.num_hidden_layers)
    tunes = quantised is None and options.tunes
    tunes = tunes and any(plan[name] for layer in blocks for name in decoder.linears(layer))
    calibration, render = None, chat_renderer(folder)
    if tunes:
        context, vocab_size = decoder.config.max_position_embeddings, decoder.config.vocab_size
        calibration = calibrate(tokenizer, options, context, vocab_size, render)
    _check_launch(launch, options, calibration)
    for module, extra in (("torch", "convert"), ("transformers", "convert"), ("onnx", "convert")):
        if importlib.util.find_spec(module) is None:
            raise MissingExtraError(module, extra)
    options = with_choices(options, _device(options, tunes))
    batch_size = max(1, resolved_recipe(options).batch_size // launch.size)
    tokens = calibration.samples.shape[1] * batch_size if calibration is not None else 0
    settings = resolve(options, decoder, plan, tokens)
    budget = build_budget(checkpoint, decoder, tokenizer, plan, options, render)
    in_files, activations = False, 0
    if quantised is None:
        mine = calibration and calibration.part(launch.rank, launch.size)
        need = memory_need(checkpoint, decoder, plan, replace(settings, batch_size=batch_size), mine)
        in_files = maps_activations(need, memory_limit_bytes)
        activations = need.activations if in_files else 0
    needed = 0
    if launch.is_main:
        needed = activations + _disk_bytes(checkpoint, decoder, widest(budget, plan), options.formats, tunes)
        check_space(out, needed)
    return Job(
        model, out, options, settings, checkpoint, decoder, plan, calibration, in_files, launch, budget,
        quantised=quantised, needed_bytes=needed, end_token_ids=ends.ids, notes=notes,
    )  # fmt: skip


def as_asked(source: Checkpoint | PackedCheckpoint, options: ConvertOptions) -> Checkpoint | PackedCheckpoint:
    """A GGUF file as floats where it has nothing else or a recipe asks for them, else with the grids that the formats hold."""
    if not isinstance(source, GgufCheckpoint):
        return source
    if options.recipe is not None or not source.is_quantised:
        return source.stored
    float_tables = any(name in CHECKPOINT_FORMATS for name in options.formats)
    as_blocks = set(options.formats) <= set(FILE_FORMATS)
    return replace(source, float_tables=float_tables, native=options.native_weights, as_blocks=as_blocks)


def _slow_experts(decoder: Decoder, options: ConvertOptions) -> tuple[str, ...]:
    """A note where OpenVINO has no kernel for the chosen experts alone: its pattern has a gate of Swish or Gelu."""
    if "openvino" not in options.formats or all(spec.gated for spec in expert_specs(decoder)):
        return ()
    return (
        "OpenVINO 2026.4 computes every expert for every token where experts have no gate; --format onnx computes the chosen ones",
    )


def plan_source(
    source: Checkpoint | PackedCheckpoint, options: ConvertOptions
) -> tuple[Checkpoint, PackedCheckpoint | None, Decoder, Plan, tuple[str, ...]]:
    """The source under the decoder's names, twice where it is quantised, the decoder, the scheme of each module, and notes.

    Whether the head is tied to the embedding is decided here, for the whole conversion: `Decoder.head_at` and
    `lm_head.weight` of the source say it from now on.
    """
    decoder, said = with_stored_head(from_config(source.config), source)
    if isinstance(source, Checkpoint):
        sources, expected = decoder.sources(), decoder.every_tensor()
        checkpoint = mapped(source, sources, expected)
        notes = source.notes + said + checkpoint.check(expected, decoder.unused_tensors())
        plan = make_plan(decoder, options) if options.plan is None else read_plan(options.plan, decoder)
        if HEAD in plan and decoder.head_at != HEAD:
            sources, decoder = sources_of_untied(decoder), with_head(decoder, own=True)
            checkpoint = mapped(source, sources, decoder.every_tensor())
        return checkpoint, None, decoder, plan, notes
    quantised = mapped_packed(source, decoder.sources(), decoder.every_tensor())
    notes = source.stored.notes + said + quantised.check(decoder.every_tensor(), decoder.unused_tensors())
    plan = stored_plan(quantised, decoder, options)
    if HEAD in plan and decoder.head_at != HEAD:
        sources, decoder = sources_of_untied(decoder), with_head(decoder, own=True)
        quantised = mapped_packed(source, sources, decoder.every_tensor())
    return quantised.stored, quantised, decoder, plan, notes


def _check_launch(launch: Launch, options: ConvertOptions, calibration: Calibration | None) -> None:
    """Raise UsageError when the processes cannot share the work equally."""
    if launch.size == 1:
        return
    if calibration is None:
        raise UsageError(f"{launch.size} processes were started, yet nothing is tuned", hint="run it without torchrun")
    batch_size = resolved_recipe(options).batch_size
    if batch_size % launch.size:
        fitting = -(-batch_size // launch.size) * launch.size
        raise UsageError(
            f"batch_size is {batch_size}; {launch.size} processes share a batch, which must be a multiple of that",
            hint=f"echo 'batch_size = {fitting}' > tuning.toml, then --tuning tuning.toml",
        )
    samples = len(calibration.samples) - calibration.held_out
    if samples < launch.size:
        raise UsageError(f"{samples} samples to tune on are fewer than {launch.size} processes", hint="start fewer")


def _device(options: ConvertOptions, tunes: bool) -> str:
    """The device that the options ask for, by its own name; rounding alone is the CPU's."""
    if options.device == "cpu" or (options.device == "auto" and not tunes):
        return "cpu"
    if not tunes:
        raise UsageError(f"device is {options.device}, yet nothing is tuned", hint="leave it out")
    from ovround.quant.device import resolve  # torch

    return resolve(options.device)


def _disk_bytes(
    checkpoint: Checkpoint, decoder: Decoder, plan: Plan, formats: tuple[str, ...], with_working_folder: bool
) -> int:
    """About what the conversion takes on the output's disk at its peak: output, working folder, scratch of one exporter."""
    item_bytes = item_sizes(checkpoint)
    needed, scratch = 0, 0
    for name in formats:
        sizes, written = sizes_of(name), written_sizes(name, decoder, plan, item_bytes)
        needed += sum(written.values()) + sizes.graph_bytes(decoder) + _SMALL_FILES_BYTES
        scratch = max(scratch, sizes.scratch_bytes(written))
    working = sum(written_sizes(_WORKING_FORMAT, decoder, plan, item_bytes).values()) if with_working_folder else 0
    return needed + scratch + working


def item_sizes(checkpoint: Checkpoint) -> dict[str, int]:
    """Bytes of an element of each tensor."""
    return {name: info.size_bytes // math.prod(info.shape) for name, info in checkpoint.tensors().items()}
