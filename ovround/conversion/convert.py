"""The main job: open the checkpoint, check everything that can be checked, quantise block by block into every format, verify.

checkpoint -> plan -> [embedding, block 0, block 1, ..., head] -> exporters -> readers -> one rename

Each tuned block is stored in a working folder beside the output before the next one begins. The exporters get the blocks once
all are finished. So a run that was stopped or killed continues.
"""

from __future__ import annotations

import contextlib
import platform
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from time import monotonic
from typing import TYPE_CHECKING

import ovround
from ovround.artifact.manifest import (
    FLOAT16_SCALE_FORMATS,
    BlockRecord,
    Manifest,
    Quality,
    WeightRecord,
    sha256_file,
    write_manifest,
)
from ovround.artifact.output_folder import atomic_folder, nothing_kept, output_lock
from ovround.checkpoint import Checkpoint, GgufCheckpoint, GgufFloats, PackedCheckpoint, is_ir, locate
from ovround.checkpoint.locate import plain_name
from ovround.conversion.bit_budget import BitAllocation, allocate_bits
from ovround.conversion.model_files import staged
from ovround.conversion.precision import precision_notes
from ovround.conversion.preparation import Job, prepare
from ovround.conversion.repacking import repacked, tuning_records
from ovround.conversion.time_budget import choose_in_time
from ovround.errors import UsageError, VerifyError
from ovround.exporters.exporter import Exporter, record_of
from ovround.exporters.formats import open_exporter, open_reader
from ovround.heap import return_freed_memory
from ovround.options.convert_options import ConvertOptions
from ovround.options.units import parse_duration, parse_size
from ovround.progress import OnProgress, Progress, silent
from ovround.quant.block_store import BlockStore, add_note, block_store, working_folder
from ovround.quant.plan import Plan
from ovround.quant.plan_file import PLAN_FILE, plan_digest, write_plan

if TYPE_CHECKING:
    from ovround.quant.emitted import Event

_VERSIONS = ("torch", "transformers", "openvino", "openvino-tokenizers", "onnx", "onnxruntime", "numpy")


@dataclass(frozen=True, slots=True)
class Conversion:
    """What `convert` did: one folder and manifest a format, in the order asked for.

    `plan` is the scheme of each module; `allocation` compares the result with the budget, and is None without one.
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
    memory_limit: int | str | None = None,
    time: str | None = None,
    source_name: str | None = None,
) -> Conversion:
    """Convert `model` (a folder, a hub name, or `demo`) into `out`: one format there, several in `out/<format>`.

    `out` appears whole or not at all. Tuned blocks are kept beside it when the work is interrupted, and the same call
    continues. `memory_limit`, bytes or text such as `4GB`, moves activations into files where they would exceed it, and
    does not change the result. `time`, text such as `10min`, chooses those of iters, nsamples and seqlen that are not given, so
    that the tuning ends near that; the manifest names them. `source_name`: what manifest and card call the source, by default
    as `model` names it. Raises OvroundError for everything that is wrong with the input, before anything is tuned where that is
    possible.

    Of several processes that torchrun started, the first writes, tells its progress and returns what was written; the
    others return a Conversion without folders.
    """
    options = options or ConvertOptions()
    time_s = None if time is None else parse_duration("time", time)
    model = plain_name(str(model))
    folder = locate(model, on_progress)
    began = monotonic()  # the download is not tuning
    if is_ir(folder):
        if time_s is not None:
            raise UsageError("time is given, yet NNCF compresses an OpenVINO IR", hint="leave it out")
        from ovround.conversion.ir_compression import compress  # OpenVINO, which the rest needs only when it writes

        return Conversion((Path(out),), (compress(model, folder, Path(out), options, on_progress),), {})
    limit_bytes = parse_size("memory-limit", memory_limit) if isinstance(memory_limit, str) else memory_limit
    choice = None
    if time_s is not None:
        choice = choose_in_time(model, Path(out), options, time_s, began, on_progress)
        options = choice.into(options)
    job = replace(prepare(model, Path(out), options, limit_bytes), choice=choice)
    return_freed_memory()  # the tokenizer, of which the job keeps nothing
    job = job if source_name is None else replace(job, name=source_name)
    if not job.launch.is_main:
        return run_worker_rank(job)
    with output_lock(job.out):
        on_progress(Progress("check"))
        for note in job.notes:
            on_progress(Progress("note", note=note))
        source_files = _scan(job.quantised or job.checkpoint)
        if job.calibration is None:
            return _write(job, source_files, on_progress, None)
        with block_store(job.out, job.checkpoint, job.decoder.config.num_hidden_layers) as store:
            return _write(job, source_files, on_progress, store)


def run_worker_rank(job: Job) -> Conversion:
    """Run a process other than the first: it computes, and writes only mapped activations."""
    work = job.out.absolute()
    try:
        source_files = _scan(job.checkpoint)
        job = _allocated(job, silent)
        with contextlib.ExitStack() as stack:
            activations_in = None
            if job.activations_in_files:  # named like a half-written output, which the next conversion removes
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
            notes = (*job.notes, *precision_notes(records))
            for note in notes[len(job.notes) :]:
                on_progress(Progress("note", note=note))
            if job.quantised is not None:
                blocks, quality = tuning_records(job.quantised)
            for number, (format_name, exporter) in enumerate(exporters.items()):
                on_progress(Progress("write", number, len(exporters)))
                exporter.finish()
                on_progress(Progress("verify", number, len(exporters)))
                verify(format_name, exporter.folder, records)
        manifests = []
        for format_name, folder in folders.items():
            manifest = Manifest(
                ovround_version=ovround.__version__,
                format=format_name,
                source_name=_source_name(job.name),
                model_type=str(job.checkpoint.config["model_type"]),
                source_files=source_files,
                options=replace(options, formats=(format_name,)).as_json(),
                versions=installed_versions(),
                weights=records,
                blocks=blocks,
                quality=quality,
                processes=job.launch.size,
                compiled=job.settings.compile,
                samples=None if job.calibration is None else job.calibration.record,
                notes=notes,
                source_method="" if job.quantised is None else job.quantised.method,
                source_way=_way(job),
                source_types=job.quantised.report() if isinstance(job.quantised, GgufCheckpoint) else (),
            )
            _write_card(folder, manifest, job.checkpoint)
            if options.budget or options.plan:
                write_plan(folder / PLAN_FILE, job.plan)
            manifests.append(write_manifest(folder, manifest))
    written = tuple(job.out if single else job.out / name for name in options.formats)
    return Conversion(written, tuple(manifests), job.plan, job.allocation)


def verify(format_name: str, folder: Path, records: tuple[WeightRecord, ...]) -> None:
    """Read every weight of a written folder, as anyone would who has its manifest, and compare it bit for bit.

    Raises VerifyError naming the first weight that differs from what was handed to the exporter.
    """
    reader = open_reader(format_name, folder, {record.name: record for record in records})
    for record in records:
        if reader.read(record.name).digest() != record.sha256:
            raise VerifyError(
                f"`{record.name}` read back from `{folder.name}` is not what was written",
                hint="this is a defect of ovround or of the disk: nothing was kept; please report it",
            )


def installed_versions() -> dict[str, str]:
    """The libraries that a conversion's bytes depend on, and Python's own version."""
    versions = {"python": platform.python_version()}
    for name in _VERSIONS:
        with contextlib.suppress(PackageNotFoundError):
            versions[name] = version(name)
    return versions


@contextlib.contextmanager
def _exporters(job: Job, folders: dict[str, Path]) -> Iterator[dict[str, Exporter]]:
    native = job.options.native_weights
    exporters: dict[str, Exporter] = {}
    try:
        with staged(job.checkpoint.folder, job.end_token_ids) as source:
            for format_name, folder in folders.items():
                folder.mkdir(exist_ok=True)
                exporters[format_name] = open_exporter(
                    format_name,
                    folder,
                    job.decoder,
                    source,
                    job.plan,
                    config=job.checkpoint.config,
                    native_weights=native,
                )
            yield exporters
    finally:
        for exporter in exporters.values():
            exporter.close()


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
    """The finished tensors in the model's order, with the blocks' records and the quality; tuned ones come from the store."""
    wide = not set(job.options.formats) & {*FLOAT16_SCALE_FORMATS}
    if job.quantised is not None:
        return repacked(job.quantised, job.decoder, job.plan, on_progress, wide_scales=wide)
    from ovround.quant.passes.context import QuantContext  # torch: only once everything else is known to be right
    from ovround.quant.passes.rtn_pass import RtnPass

    if store is None:
        context = QuantContext(job.checkpoint, job.decoder, job.plan, job.settings, on_progress=on_progress)
        return RtnPass(context, wide_scales=wide).run()
    stage = _tuned(job, source_files, on_progress, store, store.folder if job.activations_in_files else None)
    return store.emit(job.decoder, stage)


def _tuned(
    job: Job, source_files: dict[str, str], on_progress: OnProgress, store: BlockStore, activations_in: Path | None
) -> str:
    """Run all passes into the store of the first process; returns the stage that is complete then."""
    from ovround.quant.device import open_device
    from ovround.quant.distributed.group import open_group
    from ovround.quant.fingerprint import fingerprint
    from ovround.quant.passes.context import QuantContext
    from ovround.quant.passes.tuning import tune_model

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
            if job.choice is not None:
                job.choice.write(store.folder)
        context = QuantContext(
            job.checkpoint,
            job.decoder,
            job.plan,
            job.settings,
            job.calibration.part(group.rank, group.size),
            on_progress,
            activations_in,
            device,
            group,
        )
        return tune_model(context, store)


def _hand_over(
    events: Iterator[Event], exporters: list[Exporter]
) -> tuple[tuple[WeightRecord, ...], tuple[BlockRecord, ...], Quality | None]:
    """Write each tensor with every exporter; returns the manifest's records and the quality."""
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
            records.append(record_of(event.name, event.weight, event.relative_error))
    return tuple(records), tuple(blocks), quality


def _source_name(model: str) -> str:
    """A folder or file by its own name, wherever it lies; anything else as it was typed."""
    path = Path(model).expanduser()
    return path.resolve().name if path.is_dir() else path.name if path.is_file() else model


def _way(job: Job) -> str:
    """What is done with a GGUF file: `keep` its integers, or `retune` from the numbers that they stand for."""
    if isinstance(job.quantised, GgufCheckpoint):
        return "keep"
    return "retune" if isinstance(job.checkpoint, GgufFloats) and job.checkpoint.inner.is_quantised else ""


def _write_card(folder: Path, manifest: Manifest, checkpoint: Checkpoint) -> None:
    from ovround.conversion.model_card import model_card

    (folder / "README.md").write_text(model_card(manifest, checkpoint.folder), encoding="utf-8")
