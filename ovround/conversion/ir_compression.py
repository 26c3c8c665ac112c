"""Any architecture without a file of ours: an OpenVINO IR folder, as optimum-intel exports, whose weights NNCF compresses.

The output is the artifact that `convert` writes, with manifest and verification. With the recipe `rtn` no text is needed;
every other recipe runs NNCF's AWQ and scale estimation on the calibration samples. Embedding and head get 8 bits, as NNCF
does by default. NNCF holds the whole model in memory.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib.util
import logging
import shutil
import sys
from dataclasses import dataclass, replace
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import openvino as ov
from numpy.typing import NDArray

import ovround
from ovround.artifact.manifest import Manifest, WeightRecord, sha256_file, write_manifest
from ovround.artifact.output_folder import atomic_folder, check_output, check_space, output_lock
from ovround.checkpoint import read_json
from ovround.checkpoint.files.small_files import check_links, model_files
from ovround.conversion.end_tokens import read_end_tokens, write_end_tokens
from ovround.conversion.model_card import model_card
from ovround.errors import CheckpointError, MissingExtraError, UsageError, VerifyError
from ovround.options.convert_options import ConvertOptions
from ovround.options.option import changed, declared
from ovround.progress import OnProgress, Progress
from ovround.quant.calibration.samples import calibrate
from ovround.runtime.model_info import read_model_info
from ovround.source_tokenizer import chat_renderer, load_tokenizer
from ovround.tensors.scheme import DEFAULT_GROUP_SIZES

MODEL = "openvino_model.xml"
BITS = (4, 8)
_TOKENIZERS = tuple(f"openvino_{kind}.{end}" for kind in ("tokenizer", "detokenizer") for end in ("xml", "bin"))
_LOW_BITS = {"u4": 4, "i4": 4, "u8": 8, "i8": 8}
_MOST_SAMPLES, _MOST_TOKENS = 128, 512  # NNCF's subset_size by default; statistics, not gradients

Constants = dict[str, Any]


@dataclass(frozen=True, slots=True)
class _Compressed:
    """One compressed weight: codes, scale and zero point as the IR holds them, and as numbers that broadcast."""

    codes: Any
    scale: Any
    zero_point: Any | None

    def digest(self) -> str:
        """sha256 of types, shapes and bytes."""
        digest = hashlib.sha256()
        for part in (self.codes, self.scale, self.zero_point):
            if part is not None:
                digest.update(f"{part.get_element_type()} {list(part.get_output_shape(0))}".encode())
                digest.update(np.ascontiguousarray(part.data).data)
        return digest.hexdigest()

    def values(self) -> NDArray[np.float32]:
        """What the codes stand for, in their own shape."""
        codes = self.codes.get_data(dtype=np.float32)
        zero = 0.0 if self.zero_point is None else self.zero_point.get_data(dtype=np.float32)
        values: NDArray[np.float32] = (codes - zero) * self.scale.get_data(dtype=np.float32)
        return values


def compress(name: str, folder: Path, out: Path, options: ConvertOptions, on_progress: OnProgress) -> Manifest:
    """Compress the IR `folder`, called `name`, into `out`; `out` appears whole or not at all.

    Raises UsageError for options that NNCF has no counterpart for, CheckpointError for a folder that is no stateful language
    model or is compressed already, VerifyError when what was written is not what was compressed.
    """
    _check_options(options)
    if importlib.util.find_spec("nncf") is None:
        raise MissingExtraError("nncf", "nncf")
    check_output(out)
    check_links(folder)
    config, weights_file = read_json(folder / "config.json"), folder / MODEL.replace(".xml", ".bin")
    tokenizer, context = load_tokenizer(folder), read_model_info(folder).context_length
    try:
        model = ov.Core().read_model(folder / MODEL)
    except RuntimeError as error:
        raise CheckpointError(f"`{folder / MODEL}` cannot be read", hint="export it again") from error
    inputs = {port.any_name for port in model.inputs}
    if not {"input_ids", "attention_mask", "beam_idx"} <= inputs or not model.get_sinks():
        raise CheckpointError(
            f"`{folder}` is no stateful language model: its inputs are {', '.join(sorted(inputs))}",
            hint="optimum-cli export openvino --task text-generation-with-past --model MODEL FOLDER",
        )
    if _compressed(model):
        raise CheckpointError(f"`{folder}` is compressed already", hint="export it with --weight-format fp16")
    vocab_size = model.output("logits").get_partial_shape()[2].get_length()
    ends = read_end_tokens(folder, tokenizer, vocab_size)
    samples = None
    if options.tunes:
        limited = options if options.seqlen else replace(options, seqlen=min(context, _MOST_TOKENS))
        samples = calibrate(tokenizer, limited, context, vocab_size, chat_renderer(folder)).samples[:_MOST_SAMPLES]
    with output_lock(out):
        on_progress(Progress("check"))
        check_space(out, needed := weights_file.stat().st_size)
        sources = {file.name: sha256_file(file) for file in (folder / MODEL, weights_file, folder / "config.json")}
        originals = {node.get_friendly_name(): node for node in model.clone().get_ops() if _is_constant(node)}
        on_progress(Progress("quantise", 0, 1))
        model = _nncf(model, options, samples, inputs)
        records = _records(_compressed(model), originals)
        del originals
        with atomic_folder(out, needed_bytes=needed) as work:
            on_progress(Progress("write", 0, 1))
            ov.save_model(model, work / MODEL, compress_to_fp16=False)
            for file in (*model_files(folder), *(name for name in _TOKENIZERS if (folder / name).is_file())):
                (work / file).parent.mkdir(exist_ok=True)
                shutil.copyfile(folder / file, work / file)
            write_end_tokens(work, ends.ids)
            on_progress(Progress("verify", 0, 1))
            _verify(work, records)
            manifest = Manifest(
                ovround_version=ovround.__version__,
                format="openvino",
                source_name=Path(name).resolve().name if Path(name).is_dir() else name,
                model_type=str(config.get("model_type", "unknown")),
                source_files=sources,
                options=options.as_json(),
                versions={package: version(package) for package in ("openvino", "nncf", "numpy")},
                weights=records,
                notes=ends.notes,
            )
            (work / "README.md").write_text(model_card(manifest, folder), encoding="utf-8")
            return write_manifest(work, manifest)


def _check_options(options: ConvertOptions) -> None:
    if options.formats != ("openvino",):
        raise UsageError(f"an OpenVINO IR cannot become {', '.join(options.formats)}", hint="--format openvino")
    if options.bits not in BITS:
        raise UsageError(f"bits is {options.bits}; NNCF compresses an OpenVINO IR to 4 or 8", hint="--bits 4")
    for entry in changed(options):
        if "ir" not in entry.option.sources:
            taken = [option.label for option in declared(ConvertOptions) if "ir" in option.option.sources]
            raise UsageError(
                f"{entry.label} has no meaning for an OpenVINO IR, which NNCF compresses",
                hint=f"allowed: {', '.join(taken)}",
            )


def _nncf(model: ov.Model, options: ConvertOptions, samples: NDArray[np.int64] | None, inputs: set[str]) -> ov.Model:
    with contextlib.redirect_stdout(sys.stderr):  # where NNCF would draw its tables and bars
        import nncf

        nncf.set_log_level(logging.WARNING)
        kind = "SYM" if options.sym else "ASYM"
        settings: dict[str, Any] = {"mode": nncf.CompressWeightsMode[f"INT{options.bits}_{kind}"]}
        if options.bits == 4:
            settings |= {"group_size": options.group_size or DEFAULT_GROUP_SIZES[0], "ratio": 1.0}
            if options.group_size is None:
                fitting, least = nncf.GroupSizeFallbackMode.ADJUST, DEFAULT_GROUP_SIZES[-1]
                settings["advanced_parameters"] = nncf.AdvancedCompressionParameters(
                    group_size_fallback_mode=fitting, min_adjusted_group_size=least
                )
            if samples is not None:
                dataset = nncf.Dataset(list(samples), partial(_inputs, inputs=inputs))
                settings |= {"dataset": dataset, "subset_size": len(samples), "awq": True, "scale_estimation": True}
        try:
            return nncf.compress_weights(model, **settings)
        except (nncf.errors.InternalError, nncf.errors.ValidationError, nncf.errors.InvalidGroupSizeError) as error:
            raise UsageError(f"NNCF cannot compress this model so: {error}", hint="--group-size 32, or -1") from error


def _inputs(row: NDArray[np.int64], inputs: set[str]) -> dict[str, NDArray[Any]]:
    """The model inputs for one sample `[T]`."""
    ids = row[None]
    every: dict[str, NDArray[Any]] = {
        "input_ids": ids, "attention_mask": np.ones_like(ids), "position_ids": np.arange(len(row))[None],
        "beam_idx": np.zeros(1, np.int32),
    }  # fmt: skip
    return {name: value for name, value in every.items() if name in inputs}


def _is_constant(node: ov.Node) -> bool:
    return bool(node.get_type_name() == "Constant")


def _compressed(model: ov.Model) -> dict[str, _Compressed]:
    """The compressed weights by name: constants of few bits that have a scale."""
    constants: Constants = {node.get_friendly_name(): node for node in model.get_ordered_ops() if _is_constant(node)}
    return {
        name: _Compressed(node, constants[f"{name}/scale"], constants.get(f"{name}/zero_point"))
        for name, node in constants.items()
        if node.get_element_type().get_type_name() in _LOW_BITS and f"{name}/scale" in constants
    }


def _records(compressed: dict[str, _Compressed], originals: Constants) -> tuple[WeightRecord, ...]:
    records = []
    for name, weight in compressed.items():
        original = originals[name].get_data(dtype=np.float32)
        values = weight.values().reshape(original.shape)
        norm = float(np.linalg.norm(original))
        parts = [part for part in (weight.codes, weight.scale, weight.zero_point) if part is not None]
        kind = weight.codes.get_element_type().get_type_name()
        records.append(
            WeightRecord(
                name,
                original.shape,
                _LOW_BITS[kind],
                values.size // int(np.prod(weight.scale.get_output_shape(0))),
                weight.zero_point is None,
                sum(part.data.nbytes for part in parts),
                weight.digest(),
                float(np.linalg.norm(original - values)) / norm if norm else 0.0,
            )
        )
    return tuple(records)


def _verify(folder: Path, records: tuple[WeightRecord, ...]) -> None:
    written = _compressed(ov.Core().read_model(folder / MODEL))
    for record in records:
        if record.name not in written or written[record.name].digest() != record.sha256:
            raise VerifyError(
                f"`{record.name}` read back is not what was written",
                hint="this is a defect of ovround or of the disk: nothing was kept; please report it",
            )
