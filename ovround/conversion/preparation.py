"""Everything about a conversion that a look at headers, options and text can find wrong, found before any work begins."""

from __future__ import annotations

import importlib.util
import math
from dataclasses import dataclass, replace
from pathlib import Path

from ovround.artifact.manifest import CHECKPOINT_FORMATS
from ovround.artifact.output_folder import check_space, check_target
from ovround.checkpoint import Checkpoint, PackedCheckpoint, locate, mapped, mapped_packed, open_source, read_json
from ovround.conversion.bit_budget import BitAllocation, BitBudget, build_budget, widest
from ovround.conversion.repacking import stored_plan, with_stored_head
from ovround.errors import CheckpointError, MissingExtraError, UsageError
from ovround.exporters.checkpoints import check_layout, open_format
from ovround.exporters.checkpoints.shards import SHARD_BYTES
from ovround.exporters.source_files import check_links
from ovround.models import from_config
from ovround.models.decoder import Decoder
from ovround.options.convert_options import Codebooks, ConvertOptions
from ovround.quant.calibration.samples import Calibration, calibrate
from ovround.quant.distributed.launch import Launch
from ovround.quant.memory import maps_activations, memory_need
from ovround.quant.passes.compile_choice import choose
from ovround.quant.plan import Plan, make_plan, weight_shapes
from ovround.quant.plan_file import read_plan
from ovround.source_tokenizer import load_tokenizer

# Copied as they are; a damaged one would only be noticed when the finished folder is loaded.
CARRIED_SETTINGS = ("generation_config.json", "tokenizer_config.json", "special_tokens_map.json")
_CODES_IN_BYTES = 2  # codes of few bits take whole bytes or two in files
_SMALL_FILES_BYTES = 32 << 20  # graphs, tokenizers and text beside the weights, generously


@dataclass(frozen=True, slots=True)
class Job:
    """A conversion whose every precondition holds: nothing is left that a look at headers and text could have found.

    `quantised` is the source whose integers are kept, where `checkpoint` is quantised already.
    """

    name: str
    out: Path
    options: ConvertOptions
    checkpoint: Checkpoint
    decoder: Decoder
    plan: Plan
    calibration: Calibration | None
    activations_in_files: bool
    launch: Launch
    problem: BitBudget | None = None
    mix: BitAllocation | None = None
    quantised: PackedCheckpoint | None = None
    needed_bytes: int = 0  # on the disk of `out`, working files included; 0 for a process that writes nothing


def prepare(model: str, out: Path, options: ConvertOptions, memory_limit_bytes: int | None = None) -> Job:
    """Open and check source, options, text, output and memory; takes well under a second and imports no torch.

    Torch is imported where a device other than the CPU is asked for, which only it can find. The options that the job has
    name the device that is used.
    """
    launch = Launch.from_environment()
    if launch.is_main:
        check_target(out)
    source = open_source(locate(model))
    folder = source.folder
    decoder = from_config(source.config)
    quantised: PackedCheckpoint | None = None if isinstance(source, Checkpoint) else source
    checkpoint = source if isinstance(source, Checkpoint) else source.stored
    if quantised is not None:
        decoder = with_stored_head(quantised, decoder)
    expected, unused = decoder.every_tensor(), decoder.unused_tensors()
    if quantised is not None:
        quantised = mapped_packed(quantised, decoder.sources())
        quantised.check(expected, unused)
        plan = stored_plan(quantised, decoder, options)
    else:
        checkpoint = mapped(checkpoint, decoder.sources(), expected)
        checkpoint.check(expected, unused)
        plan = make_plan(decoder, options) if options.plan is None else read_plan(options.plan, decoder)
    for name in options.formats:
        if name in CHECKPOINT_FORMATS:
            open_format(name, plan, weight_shapes(decoder))
            check_layout(name, decoder)
    check_links(folder)
    for carried in CARRIED_SETTINGS:
        if (folder / carried).is_file():
            read_json(folder / carried)
    tokenizer = load_tokenizer(folder)
    if tokenizer.get_vocab_size() > decoder.config.vocab_size:
        raise CheckpointError(
            f"the tokenizer of `{folder}` has {tokenizer.get_vocab_size()} tokens, the model {decoder.config.vocab_size}",
            hint="tokenizer.json belongs to another model",
        )
    blocks = range(decoder.config.num_hidden_layers)
    tunes = quantised is None and options.steps > 0
    tunes = tunes and any(plan[name] for layer in blocks for name in decoder.linears(layer))
    calibration = None
    if tunes:
        calibration = calibrate(tokenizer, options, decoder.config.max_position_embeddings, decoder.config.vocab_size)
    _check_launch(launch, options, calibration)
    for module, extra in (("torch", "convert"), ("transformers", "convert"), ("onnx", "convert")):
        if importlib.util.find_spec(module) is None:
            raise MissingExtraError(module, extra)
    options = replace(options, device=_device(options, tunes))
    tokens = calibration.windows.shape[1] * (options.batch // launch.size) if calibration is not None else 0
    options = replace(options, compile=choose(options, decoder, tokens))
    problem = build_budget(checkpoint, decoder, tokenizer, plan, options)
    in_files, chains = False, 0
    if quantised is None:
        mine = calibration and calibration.part(launch.rank, launch.size)
        batch_size = max(1, options.batch // launch.size)
        need = memory_need(checkpoint, decoder, plan, replace(options, batch_size=batch_size), mine)
        in_files = maps_activations(need, memory_limit_bytes)
        chains = need.chains if in_files else 0
    sizes = _weight_sizes(checkpoint, expected, widest(problem, plan))
    weights = sum(sizes.values())
    working = (weights if calibration is not None else 0) + chains
    needed = 0
    if launch.is_main:
        beside = max(_scratch_bytes(name, sizes, decoder) for name in options.formats)
        needed = (weights + _SMALL_FILES_BYTES) * len(options.formats) + working + beside
        check_space(out, needed)
    return Job(
        model, out, options, checkpoint, decoder, plan, calibration, in_files, launch, problem, quantised=quantised,
        needed_bytes=needed,
    )  # fmt: skip


def _check_launch(launch: Launch, options: ConvertOptions, calibration: Calibration | None) -> None:
    """Raise UsageError when the processes cannot share the work equally."""
    if launch.size == 1:
        return
    if calibration is None:
        raise UsageError(f"{launch.size} processes were started, yet nothing is tuned", hint="run it without torchrun")
    if options.batch % launch.size:
        fitting = -(-options.batch // launch.size) * launch.size
        raise UsageError(
            f"batch-size is {options.batch}; {launch.size} processes share a batch, which must be a multiple of that",
            hint=f"--batch-size {fitting}",
        )
    windows = len(calibration.windows) - calibration.held_out
    if windows < launch.size:
        raise UsageError(f"{windows} windows to tune on are fewer than {launch.size} processes", hint="start fewer")


def _device(options: ConvertOptions, tunes: bool) -> str:
    """The device that the options ask for, by its own name; rounding alone is the CPU's."""
    if options.device == "cpu" or (options.device == "auto" and not tunes):
        return "cpu"
    if not tunes:
        raise UsageError(f"device is {options.device}, yet nothing is tuned", hint="leave it out")
    from ovround.quant.device import resolve  # torch

    return resolve(options.device)


def _weight_sizes(checkpoint: Checkpoint, expected: dict[str, tuple[int, ...]], plan: Plan) -> dict[str, int]:
    """About how large each weight becomes: at its bits, scales and zero points of 3 bytes a group."""
    infos = checkpoint.tensors()
    sizes = {}
    for name, shape in expected.items():
        scheme = plan.get(name.removesuffix(".weight"))
        if scheme is None:
            sizes[name] = infos[name].size_bytes if name in infos else 0
            continue
        if isinstance(scheme, Codebooks):
            sizes[name] = int(scheme.size_bits(shape) / 8 * _CODES_IN_BYTES)
            continue
        count = math.prod(shape)
        group = shape[-1] if scheme.group_size == -1 else scheme.group_size
        sizes[name] = int(count * max(scheme.bits, 4) / 8 + count / group * 6)
    return sizes


def _scratch_bytes(target: str, sizes: dict[str, int], decoder: Decoder) -> int:
    """What a format's writer holds on the disk beside its output, until that is whole.

    Checkpoints: one shard twice. OpenVINO: its serialiser's own file of weights, all zeros, each length and type once,
    and a layer's experts as one.
    """
    if target in CHECKPOINT_FORMATS:
        return min(sum(sizes.values()), SHARD_BYTES)
    if target != "openvino":
        return 0
    joined = dict(sizes)
    for layer in range(decoder.config.num_hidden_layers):
        for stack_at, modules in decoder.expert_stacks(layer).items():
            for kind in ("weight", "bias"):
                stacked = [joined.pop(f"{module}.{kind}") for module in modules if f"{module}.{kind}" in joined]
                joined |= {f"{stack_at}.{kind}": sum(stacked)} if stacked else {}
    return sum(set(joined.values()))
