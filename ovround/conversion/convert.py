"""The main job: open the checkpoint, check everything that can be checked, quantise block by block into every format, verify.

checkpoint -> plan -> [embedding, block 0, block 1, ..., head] -> exporters -> read back -> one rename

Where blocks are tuned, each lies in a working folder beside the output before the next is begun, and goes from there to the
exporters once all are finished: a run that was stopped or killed continues.
"""

from __future__ import annotations

import contextlib
import importlib
import platform
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING

import ovround
from ovround.artifact.manifest import (
    CHECKPOINT_FORMATS,
    BlockRecord,
    Manifest,
    Quality,
    WeightRecord,
    sha256_file,
    write_manifest,
)
from ovround.artifact.output_folder import atomic_folder, nothing_kept, output_lock
from ovround.checkpoint import Checkpoint, PackedCheckpoint, is_ir, locate
from ovround.conversion.bit_budget import BitAllocation, allocate_bits
from ovround.conversion.preparation import Job, prepare
from ovround.conversion.repacking import repacked, tuning_records
from ovround.errors import VerifyError
from ovround.models.decoder import HEAD, Decoder
from ovround.options.convert_options import ConvertOptions
from ovround.options.units import parse_size
from ovround.progress import OnProgress, Progress, silent
from ovround.quant.block_store import END_TO_END, PV, TUNED, BlockStore, add_note, block_store, discard, working_folder
from ovround.quant.plan import Plan, weight_shapes
from ovround.quant.plan_file import PLAN_FILE, plan_digest, write_plan
from ovround.tensors.codebook_tensor import CodebookTensor
from ovround.tensors.qtensor import QTensor

if TYPE_CHECKING:
    from ovround.exporters.target import Exporter
    from ovround.quant.passes.blocks import BlockQuantizer, Emitted, Event

_VERSIONS = ("torch", "transformers", "openvino", "openvino-tokenizers", "onnx", "onnxruntime", "numpy")


@dataclass(frozen=True, slots=True)
class Conversion:
    """What `convert` did: one folder and manifest a format, in the order asked for.

    `plan` is the scheme of each module; `allocation` says how near a budget it came, and is None without a budget.
    """

    folders: tuple[Path, ...]
    manifests: tuple[Manifest, ...]
    plan: Plan
    allocation: BitAllocation | None = None


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
        from ovround.conversion.ir_compression import compress  # OpenVINO, which the rest needs only when it writes

        return Conversion((Path(out),), (compress(str(model), folder, Path(out), options, on_progress),), {})
    limit_bytes = parse_size("memory-limit", memory_limit) if isinstance(memory_limit, str) else memory_limit
    job = prepare(str(model), Path(out), options, limit_bytes)
    if not job.launch.is_main:
        return run_worker_rank(job)
    with output_lock(job.out):
        on_progress(Progress("check"))
        source_files = _scan(job.quantised or job.checkpoint)
        if fresh:
            discard(job.out)
        if job.calibration is None:
            return _write(job, source_files, on_progress, None)
        with block_store(job.out, job.checkpoint, job.decoder.config.num_hidden_layers) as store:
            return _write(job, source_files, on_progress, store)


def run_worker_rank(job: Job) -> Conversion:
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
    return Conversion((), (), job.plan, job.allocation)


def _scan(checkpoint: Checkpoint | PackedCheckpoint) -> dict[str, str]:
    return checkpoint.scan() | {"config.json": sha256_file(checkpoint.folder / "config.json")}


def _write(job: Job, source_files: dict[str, str], on_progress: OnProgress, store: BlockStore | None) -> Conversion:
    """Quantise, by way of the store where there is one, and write the output folder."""
    options = job.options
    single = len(options.formats) == 1
    with atomic_folder(job.out, nothing_kept if store is None else store.kept, job.needed_bytes) as work:
        folders = {name: work if single else work / name for name in options.formats}
        with _exporters(job, folders) as exporters:
            job = _allocated(job, on_progress)
            events = _quantized(job, source_files, on_progress, store)
            records, blocks, quality = _hand_over(events, list(exporters.values()))
            if job.quantised is not None:
                blocks, quality = tuning_records(job.quantised)
            for number, exporter in enumerate(exporters.values()):
                on_progress(Progress("write", number, len(exporters)))
                exporter.finish()
                on_progress(Progress("verify", number, len(exporters)))
                verify(exporter, records)
        manifests = []
        for name, folder in folders.items():
            manifest = Manifest(
                ovround_version=ovround.__version__,
                format=name,
                source_name=_source_name(job.name),
                model_type=str(job.checkpoint.config["model_type"]),
                source_files=source_files,
                options=replace(options, formats=(name,)).as_json(),
                versions=installed_versions(),
                weights=records,
                blocks=blocks,
                quality=quality,
                processes=job.launch.size,
                compiled=job.settings.compile,
                source_method="" if job.quantised is None else job.quantised.method,
            )
            _write_card(folder, manifest, job.checkpoint)
            if options.budget or options.plan:
                write_plan(folder / PLAN_FILE, job.plan)
            manifests.append(write_manifest(folder, manifest))
    written = tuple(job.out if single else job.out / name for name in options.formats)
    return Conversion(written, tuple(manifests), job.plan, job.allocation)


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
    # A tied head with a scheme of its own is a weight of its own: in the written graph the model is no longer tied.
    decoder = replace(job.decoder, head_at=HEAD) if HEAD in job.plan else job.decoder
    exporters: dict[str, Exporter] = {}
    try:
        for name, folder in folders.items():
            folder.mkdir(exist_ok=True)
            exporters[name] = _exporter(name, folder, decoder, job)
        yield exporters
    finally:
        for exporter in exporters.values():
            exporter.close()


def _exporter(name: str, folder: Path, decoder: Decoder, job: Job) -> Exporter:
    if name in CHECKPOINT_FORMATS:
        from ovround.exporters.checkpoints import CheckpointExporter

        return CheckpointExporter(name, folder, decoder, job.checkpoint.folder, job.plan, weight_shapes(decoder))
    module = importlib.import_module(f"ovround.exporters.{name}")
    how = {"native_weights": True} if job.options.native_weights else {}
    exporter: Exporter = module.Exporter(folder, decoder, job.checkpoint.folder, **how)
    return exporter


def _allocated(job: Job, on_progress: OnProgress) -> Job:
    """The job with bits chosen for its budget, where it has one."""
    if job.budget is None:
        return job
    on_progress(Progress("allocate"))
    plan, allocation = allocate_bits(job.budget, job.checkpoint, job.decoder, job.plan)
    return replace(job, plan=plan, allocation=allocation)


def _quantized(
    job: Job, source_files: dict[str, str], on_progress: OnProgress, store: BlockStore | None
) -> Iterator[Event]:
    """The finished tensors in the model's order, and what was measured; every block is in the store before the first comes."""
    if job.quantised is not None:
        return repacked(job.quantised, job.decoder, job.plan, on_progress)
    from ovround.quant.passes.blocks import BlockQuantizer  # torch: only once everything else is known to be right

    if store is None:
        return BlockQuantizer(job.checkpoint, job.decoder, job.plan, job.settings, None, on_progress).run()
    quantizer, stage = _tuned(job, source_files, on_progress, store, store.folder if job.activations_in_files else None)
    return quantizer.emit(store, stage)


def _tuned(
    job: Job, source_files: dict[str, str], on_progress: OnProgress, store: BlockStore, activations_in: Path | None
) -> tuple[BlockQuantizer, str]:
    """Tune every block into the first process's store; the stage that is complete then."""
    from ovround.quant.device import open_device
    from ovround.quant.distributed.group import open_group
    from ovround.quant.fingerprint import fingerprint
    from ovround.quant.passes.blocks import BlockQuantizer
    from ovround.quant.passes.pv import Changes

    if job.calibration is None:
        raise ValueError("without calibration nothing is tuned")
    device = open_device(job.options.device, job.launch.local_rank)
    with open_group(job.launch, job.options.device) as group:
        job_fingerprint = fingerprint(
            job.options, job.settings, source_files, job.calibration, installed_versions(), group.size, device
        )
        if job.options.budget or job.options.plan:
            job_fingerprint["plan"] = plan_digest(job.plan)
        group.check_fingerprint(job_fingerprint)
        if group.is_main:
            store.begin(job_fingerprint)
        quantizer = BlockQuantizer(
            job.checkpoint,
            job.decoder,
            job.plan,
            job.settings,
            job.calibration,
            on_progress,
            activations_in,
            device,
            group,
        )
        quantizer.tune(store)
        stage, settings = TUNED, job.settings
        if settings.end_to_end_steps:
            quantizer.refine(store, settings.end_to_end_steps)
            stage = END_TO_END
        if settings.pv_steps:
            changes = Changes(settings.pv_changes, settings.straight_through)
            quantizer.refine(store, settings.pv_steps, stage, PV, changes)
            stage = PV
    return quantizer, stage


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
    codebooks = ""
    if isinstance(weight, CodebookTensor):
        count, _, _, group_size = weight.codebooks.shape
        codebooks, bits, symmetric = f"{count}x{weight.code_bits}", -(-count * weight.code_bits // group_size), True
    elif isinstance(weight, QTensor):
        bits, group_size, symmetric = weight.bits, weight.group_size, weight.symmetric
    else:
        bits, group_size, symmetric = 8 * weight.data.itemsize, 0, True
    return WeightRecord(
        event.name,
        weight.shape,
        bits,
        group_size,
        symmetric,
        weight.size_bytes,
        weight.digest(),
        event.relative_error,
        codebooks,
    )


def _write_card(folder: Path, manifest: Manifest, checkpoint: Checkpoint) -> None:
    from ovround.conversion.model_card import model_card

    (folder / "README.md").write_text(model_card(manifest, checkpoint.folder), encoding="utf-8")
