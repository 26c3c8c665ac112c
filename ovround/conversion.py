"""The main job: open the checkpoint, check everything that can be checked, quantise block by block into every target, verify.

checkpoint -> plan -> [embedding, block 0, block 1, ..., head] -> exporters -> read back -> one rename

Where blocks are tuned, each lies in a working folder beside the output before the next is begun, and goes from there to the
exporters once all are finished: a run that was stopped or killed continues.
"""

from __future__ import annotations

import contextlib
import importlib.util
import platform
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING

import ovround
from ovround.artifact import (
    BlockRecord,
    Manifest,
    Quality,
    WeightRecord,
    atomic_folder,
    check_space,
    check_target,
    nothing_kept,
    output_lock,
    sha256_file,
    write_manifest,
)  # fmt: skip
from ovround.checkpoint import Checkpoint, is_ir, locate, mapped, open_checkpoint, read_json
from ovround.config import ConvertOptions, parse_size
from ovround.errors import CheckpointError, MissingExtraError, UsageError, VerifyError
from ovround.mixed_precision import Mix, Problem, pose, solve, widest
from ovround.models import from_config
from ovround.models.decoder import HEAD, Decoder
from ovround.progress import OnProgress, Progress, silent
from ovround.qtensor import QTensor
from ovround.quant.block_store import END_TO_END, TUNED, BlockStore, add_note, block_store, discard, working_folder
from ovround.quant.calibration import Calibration, calibrate
from ovround.quant.launch import Launch
from ovround.quant.memory import maps_activations, memory_need
from ovround.quant.plan import Plan, end_to_end_steps, make_plan
from ovround.quant.plan_file import PLAN_FILE, plan_digest, read_plan, write_plan
from ovround.source_tokenizer import load_tokenizer

if TYPE_CHECKING:
    from ovround.exporters.target import Exporter
    from ovround.quant.blocks import BlockQuantizer, Emitted, Event

UNUSED_TENSORS = ("rotary_emb.inv_freq",)  # buffers that transformers 4 used to save
# Copied as they are; a damaged one would only be noticed when the finished folder is loaded.
CARRIED_SETTINGS = ("generation_config.json", "tokenizer_config.json", "special_tokens_map.json")
_VERSIONS = ("torch", "transformers", "openvino", "openvino-tokenizers", "onnx", "onnxruntime", "numpy")
_SMALL_FILES_BYTES = 32 << 20  # graphs, tokenizers and text beside the weights, generously


@dataclass(frozen=True, slots=True)
class Conversion:
    """What `convert` did: one folder and manifest a format, in the order asked for.

    `plan` is the grid of each module; `mix` says how near a target it came, and is None where none was given.
    """

    folders: tuple[Path, ...]
    manifests: tuple[Manifest, ...]
    plan: Plan
    mix: Mix | None = None


@dataclass(frozen=True, slots=True)
class Job:
    """A conversion whose every precondition holds: nothing is left that a look at headers and text could have found."""

    name: str
    out: Path
    options: ConvertOptions
    checkpoint: Checkpoint
    decoder: Decoder
    plan: Plan
    calibration: Calibration | None
    activations_in_files: bool
    launch: Launch
    problem: Problem | None = None
    mix: Mix | None = None


def prepare(model: str, out: Path, options: ConvertOptions, memory_limit_bytes: int | None = None) -> Job:
    """Open and check source, options, text, output and memory; takes well under a second and imports no torch.

    Torch is imported where a device other than the CPU is asked for, which only it can find. The options that the job has
    name the device that is used.
    """
    launch = Launch.from_environment()
    if launch.first:
        check_target(out)
    folder = locate(model)
    checkpoint = open_checkpoint(folder)
    decoder = from_config(checkpoint.config)
    expected = decoder.every_tensor()
    checkpoint = mapped(checkpoint, decoder.sources(), expected)
    checkpoint.check(expected, UNUSED_TENSORS + decoder.unused_tensors())
    plan = make_plan(decoder, options) if options.plan is None else read_plan(options.plan, decoder)
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
    tunes = options.steps > 0 and any(plan[name] for layer in blocks for name in decoder.linears(layer))
    calibration = None
    if tunes:
        calibration = calibrate(tokenizer, options, decoder.config.max_position_embeddings, decoder.config.vocab_size)
    _check_launch(launch, options, calibration)
    for module, extra in (("torch", "convert"), ("transformers", "convert"), ("onnx", "convert")):
        if importlib.util.find_spec(module) is None:
            raise MissingExtraError(module, extra)
    options = replace(options, device=_device(options, tunes))
    problem = pose(checkpoint, decoder, tokenizer, plan, options)
    mine = calibration and calibration.part(launch.rank, launch.size)
    batch_size = max(1, options.batch_size // launch.size)
    need = memory_need(checkpoint, decoder, plan, replace(options, batch_size=batch_size), mine)
    in_files = maps_activations(need, memory_limit_bytes)
    weights = _weight_bytes(checkpoint, expected, widest(problem, plan))
    working = (weights if calibration is not None else 0) + (need.chains if in_files else 0)
    if launch.first:
        check_space(out, (weights + _SMALL_FILES_BYTES) * len(options.formats) + working)
    return Job(model, out, options, checkpoint, decoder, plan, calibration, in_files, launch, problem)


def _check_launch(launch: Launch, options: ConvertOptions, calibration: Calibration | None) -> None:
    """Raise UsageError when the processes cannot share the work equally."""
    if launch.size == 1:
        return
    if calibration is None:
        raise UsageError(f"{launch.size} processes were started, yet nothing is tuned", hint="run it without torchrun")
    if options.batch_size % launch.size:
        fitting = -(-options.batch_size // launch.size) * launch.size
        raise UsageError(
            f"batch-size is {options.batch_size}; {launch.size} processes share a batch, which must be a multiple of that",
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


def convert(
    model: str | Path,
    out: str | Path,
    options: ConvertOptions | None = None,
    on_progress: OnProgress = silent,
    *,
    fresh: bool = False,
    memory_limit: int | str | None = None,
) -> Conversion:
    """Convert `model` (a folder, a hub name, or `demo`) into `out`: one format there, several in `out/<format>`.

    `out` appears whole or not at all. Tuned blocks are kept beside it when the work is interrupted, and the same call
    continues; `fresh` starts over. `memory_limit`, bytes or text such as `4GB`, moves activations into files where they
    would exceed it. Neither changes the result. Raises OvroundError for everything that is wrong with the input, before
    anything is tuned where that is possible.

    Of several processes that torchrun started, the first writes, tells its progress and returns what was written; the
    others return a Conversion without folders.
    """
    options = options or ConvertOptions()
    folder = locate(str(model))
    if is_ir(folder):
        from ovround.ir_compression import compress  # OpenVINO, which the rest needs only when it writes

        return Conversion((Path(out),), (compress(str(model), folder, Path(out), options, on_progress),), {})
    limit_bytes = parse_size("memory-limit", memory_limit) if isinstance(memory_limit, str) else memory_limit
    job = prepare(str(model), Path(out), options, limit_bytes)
    if not job.launch.first:
        return _help(job)
    with output_lock(job.out):
        on_progress(Progress("check"))
        source_files = _scan(job.checkpoint)
        if fresh:
            discard(job.out)
        if job.calibration is None:
            return _write(job, source_files, on_progress, None)
        with block_store(job.out, job.checkpoint, job.decoder.config.num_hidden_layers) as store:
            return _write(job, source_files, on_progress, store)


def _help(job: Job) -> Conversion:
    """The part of a process other than the first: it computes and writes nothing but mapped activations."""
    work = job.out.absolute()
    try:
        source_files = _scan(job.checkpoint)
        job = _allocated(job, silent)
        with contextlib.ExitStack() as stack:
            activations_in = None
            if job.activations_in_files:  # named like a half-written output, which the next conversion tidies away
                work.parent.mkdir(parents=True, exist_ok=True)
                folder = tempfile.TemporaryDirectory(".partial", f".{work.name}.", work.parent)
                activations_in = Path(stack.enter_context(folder))
            store = BlockStore(working_folder(work), job.checkpoint, job.decoder.config.num_hidden_layers)
            _tuned(job, source_files, silent, store, activations_in)
    except BaseException as error:
        add_note(error, "the first process keeps the blocks that are finished")
        raise
    return Conversion((), (), job.plan, job.mix)


def _scan(checkpoint: Checkpoint) -> dict[str, str]:
    return checkpoint.scan() | {"config.json": sha256_file(checkpoint.folder / "config.json")}


def _write(job: Job, source_files: dict[str, str], on_progress: OnProgress, store: BlockStore | None) -> Conversion:
    """Quantise, by way of the store where there is one, and write the output folder."""
    options = job.options
    single = len(options.formats) == 1
    with atomic_folder(job.out, nothing_kept if store is None else store.kept) as work:
        folders = {name: work if single else work / name for name in options.formats}
        with _exporters(job, folders) as exporters:
            job = _allocated(job, on_progress)
            events = _quantized(job, source_files, on_progress, store)
            records, blocks, quality = _hand_over(events, list(exporters.values()))
            for number, exporter in enumerate(exporters.values()):
                on_progress(Progress("write", number, len(exporters)))
                exporter.finish()
                if options.verify:
                    on_progress(Progress("verify", number, len(exporters)))
                    verify(exporter, records)
        manifests = []
        for target, folder in folders.items():
            manifest = Manifest(
                ovround_version=ovround.__version__,
                target=target,
                source_name=_source_name(job.name),
                model_type=str(job.checkpoint.config["model_type"]),
                source_files=source_files,
                options=replace(options, formats=(target,)).as_json(),
                versions=installed_versions(),
                weights=records,
                blocks=blocks,
                quality=quality,
                processes=job.launch.size,
            )
            _write_card(folder, manifest, job.checkpoint)
            if options.target or options.plan:
                write_plan(folder / PLAN_FILE, job.plan)
            manifests.append(write_manifest(folder, manifest))
    written = tuple(job.out if single else job.out / name for name in options.formats)
    return Conversion(written, tuple(manifests), job.plan, job.mix)


def verify(exporter: Exporter, records: tuple[WeightRecord, ...]) -> None:
    """Read every weight back from the written files and compare it bit for bit; raises VerifyError naming the first that differs."""
    for record in records:
        if exporter.read(record.name).digest() != record.sha256:
            raise VerifyError(
                f"`{record.name}` read back from `{exporter.folder.name}` is not what was written",
                hint="this is a defect of ovround or of the disk: nothing was kept; please report it",
            )


def installed_versions() -> dict[str, str]:
    """The libraries that a conversion's bytes depend on, and Python's own version."""
    found = {"python": platform.python_version()}
    for name in _VERSIONS:
        with contextlib.suppress(PackageNotFoundError):
            found[name] = version(name)
    return found


@contextlib.contextmanager
def _exporters(job: Job, folders: dict[str, Path]) -> Iterator[dict[str, Exporter]]:
    # A tied head on a grid of its own is a weight of its own: in the written graph the model is no longer tied.
    decoder = replace(job.decoder, head_at=HEAD) if HEAD in job.plan else job.decoder
    exporters: dict[str, Exporter] = {}
    try:
        for name, folder in folders.items():
            folder.mkdir(exist_ok=True)
            module = importlib.import_module(f"ovround.exporters.{name}")
            exporters[name] = module.Exporter(folder, decoder, job.checkpoint.folder)
        yield exporters
    finally:
        for exporter in exporters.values():
            exporter.close()


def _allocated(job: Job, on_progress: OnProgress) -> Job:
    """The job with bits chosen for its target, where it has one."""
    if job.problem is None:
        return job
    on_progress(Progress("allocate"))
    plan, mix = solve(job.problem, job.checkpoint, job.decoder, job.plan)
    return replace(job, plan=plan, mix=mix)


def _quantized(
    job: Job, source_files: dict[str, str], on_progress: OnProgress, store: BlockStore | None
) -> Iterator[Event]:
    """The finished tensors in the model's order, and what was measured; every block is in the store before the first comes."""
    from ovround.quant.blocks import BlockQuantizer  # torch: only once everything else is known to be right

    if store is None:
        return BlockQuantizer(job.checkpoint, job.decoder, job.plan, job.options, None, on_progress).run()
    quantizer, stage = _tuned(job, source_files, on_progress, store, store.folder if job.activations_in_files else None)
    return quantizer.emit(store, stage)


def _tuned(
    job: Job, source_files: dict[str, str], on_progress: OnProgress, store: BlockStore, activations_in: Path | None
) -> tuple[BlockQuantizer, str]:
    """Tune every block into the first process's store; the stage that is complete then."""
    from ovround.quant.blocks import BlockQuantizer
    from ovround.quant.device import open_device
    from ovround.quant.distributed import open_group
    from ovround.quant.facts import facts_of

    if job.calibration is None:
        raise ValueError("without calibration nothing is tuned")
    device = open_device(job.options.device, job.launch.local_rank)
    with open_group(job.launch, job.options.device) as group:
        facts = facts_of(job.options, source_files, job.calibration, installed_versions(), group.size, device)
        if job.options.target or job.options.plan:
            facts["plan"] = plan_digest(job.plan)
        group.check_facts(facts)
        if group.first:
            store.begin(facts)
        quantizer = BlockQuantizer(
            job.checkpoint,
            job.decoder,
            job.plan,
            job.options,
            job.calibration,
            on_progress,
            activations_in,
            device,
            group,
        )
        quantizer.tune(store)
        steps = end_to_end_steps(job.decoder, job.plan, job.options)
        if steps:
            quantizer.refine(store, steps)
    return quantizer, END_TO_END if steps else TUNED


def _hand_over(
    events: Iterator[Event], exporters: list[Exporter]
) -> tuple[tuple[WeightRecord, ...], tuple[BlockRecord, ...], Quality | None]:
    """Give each tensor to every exporter; what the manifest says about them."""
    records: list[WeightRecord] = []
    blocks: list[BlockRecord] = []
    quality: Quality | None = None
    for event in events:
        if isinstance(event, BlockRecord):
            blocks.append(event)
        elif isinstance(event, Quality):
            quality = event
        else:
            for exporter in exporters:
                exporter.write(event.name, event.weight)
            records.append(_record(event))
    return tuple(records), tuple(blocks), quality


def _source_name(model: str) -> str:
    """A folder by its own name, wherever it lies; anything else as it was typed."""
    folder = Path(model).expanduser()
    return folder.resolve().name if folder.is_dir() else model


def _record(event: Emitted) -> WeightRecord:
    weight = event.weight
    if isinstance(weight, QTensor):
        bits, group_size, symmetric = weight.bits, weight.group_size, weight.symmetric
    else:
        bits, group_size, symmetric = 8 * weight.data.itemsize, 0, True
    return WeightRecord(
        event.name, weight.shape, bits, group_size, symmetric, weight.size_bytes, weight.digest(), event.relative_error
    )


def _weight_bytes(checkpoint: Checkpoint, expected: dict[str, tuple[int, ...]], plan: Plan) -> int:
    """About how large the weights become: each at its bits, scales and zero points of 3 bytes a group."""
    infos = checkpoint.tensors()
    total = 0.0
    for name, info in infos.items():
        scheme = plan.get(name.removesuffix(".weight"))
        if name not in expected:
            continue
        if scheme is None:
            total += info.size_bytes
            continue
        count = 1
        for size in info.shape:
            count *= size
        group = info.shape[-1] if scheme.group_size == -1 else scheme.group_size
        total += count * max(scheme.bits, 4) / 8 + count / group * 6
    return int(total)


def _write_card(folder: Path, manifest: Manifest, checkpoint: Checkpoint) -> None:
    from ovround.model_card import model_card

    (folder / "README.md").write_text(model_card(manifest, checkpoint.folder), encoding="utf-8")
