"""`ConvertOptions`: a field is the flag, the keyword, the entry of manifest and fingerprint, and the row in the docs."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from ovround.artifact.manifest import CHECKPOINT_FORMATS, CODEBOOK_FORMATS, ENGINE_FORMATS, FILE_FORMATS, FORMATS
from ovround.errors import UsageError
from ovround.options.adapter_choice import AdapterChoice
from ovround.options.bits import WIDTHS, parse_bits
from ovround.options.budget import Budget
from ovround.options.layer_rule import LayerRule
from ovround.options.option import SOURCES, Subject, changed, check_values, declared, option, plain
from ovround.options.recipes import CODES_BATCH_SIZE, DEFAULT_RECIPE, RECIPES, Recipe
from ovround.options.tuning_options import TuningOptions, read_tuning_options
from ovround.tensors.qtensor import GROUP_SIZES
from ovround.tensors.scheme import DEFAULT_GROUP_SIZES, Codebooks

HEAD_BITS = 8  # what optimum-intel writes for head and embedding too: half the bytes of 16, and no tuning needed
DEFAULT_CODEBOOKS = Codebooks(2, 8, 8)
DEVICES = ("auto", "cpu", "cuda", "xpu", "hpu")
BLOCK = 32  # weights of a GGUF block, which has a scale of its own


@dataclass(frozen=True, slots=True)
class ConvertOptions:
    """Everything that decides the bytes of a conversion, checked here before anything is read.

    None means that preparation decides: by the source (`recipe`), the recipe (`iters`, `nsamples`), the model's context
    (`seqlen`), the model and the formats (`lm_head_bits`, `embedding_bits`), the format (`codebooks`: 2x8:8 for aqlm), or each
    weight's inputs (`group_size`: the largest of 128, 64, 32, 16 that divides them, else a whole row; in a GGUF file 32).
    """

    formats: tuple[str, ...] = option(
        ("openvino",), f"Format of the output, one of {', '.join(FORMATS)}; repeatable.", "Output",
        flag="--format", allowed=FORMATS, sources=SOURCES, fingerprint="none",
    )  # fmt: skip
    native_weights: bool = option(
        False, "Layers of 2 to 4 bits, and K-quants of a GGUF file, in the layout of the native CPU operator.", "Output",
        sources=("unquantised", "quantised"), fingerprint="none",
    )  # fmt: skip
    bits: int = option(
        4, "Bits of a weight: 2, 3, 4, 8, or 16 for no quantisation.", "Grid", allowed=WIDTHS, parse=parse_bits,
        sources=SOURCES, about="integers",
    )  # fmt: skip
    group_size: int | None = option(
        None, "Inputs that share a scale: 16 to 256, or -1 for a whole row; default: 128, else 64, 32 or 16, by weight.", "Grid",
        allowed=GROUP_SIZES, sources=SOURCES,
    )  # fmt: skip
    sym: bool = option(
        True, "Symmetric integers, or integers with zero points.", "Grid", flag="--sym/--asym", sources=SOURCES
    )
    lm_head_bits: int | None = option(
        None, "Bits of the output head; default: 8, in a checkpoint 16.", "Grid",
        allowed=WIDTHS, parse=parse_bits, sources=("unquantised", "quantised"),
    )  # fmt: skip
    embedding_bits: int | None = option(
        None, "Bits of the embedding; default: 8, in a checkpoint 16.", "Grid",
        allowed=WIDTHS, parse=parse_bits, sources=("unquantised", "quantised"),
    )  # fmt: skip
    layers: tuple[LayerRule, ...] = option(
        (), "Exception for layers, REGEX=bits:8,group_size:32,sym:false; repeatable, the last match wins.", "Grid",
        flag="--layer", parse=LayerRule.parse,
    )  # fmt: skip
    codebooks: Codebooks | None = option(
        None, "AQLM codebooks instead of integers, COUNTxBITS:VECTOR_SIZE; default: 2x8:8 for --format aqlm, else none.",
        "Grid", parse=Codebooks.parse,
    )  # fmt: skip
    plan: Path | None = option(
        None, "File with the bits and groups of every layer: ovround-plan.json of another conversion.", "Grid",
        about="integers",
    )  # fmt: skip
    recipe: str | None = option(
        None, f"Length of the tuning: {', '.join(RECIPES)}; default: default, for a GGUF file none: its integers are kept.",
        "Tuning", allowed=tuple(RECIPES), sources=SOURCES,
    )  # fmt: skip
    iters: int | None = option(
        None, "Tuning steps a block, 0 for rounding; default: the recipe's.", "Tuning", range=(0, 100_000)
    )
    nsamples: int | None = option(
        None, "Calibration samples to tune on; default: the recipe's.", "Tuning",
        range=(1, 1_000_000), sources=("unquantised", "ir"),
    )  # fmt: skip
    seqlen: int | None = option(
        None, "Tokens of a calibration sample; default: 256, or the model's context.", "Tuning",
        range=(8, 1_000_000), sources=("unquantised", "ir"),
    )  # fmt: skip
    calibration: tuple[Path, ...] = option(
        (), "Texts or chats to tune on: .txt, .json, .jsonl, .csv, .parquet, or org/name[:config] of the hub; repeatable; "
        "default: built-in text.", "Tuning",
        sources=("unquantised", "ir"), fingerprint="content",
    )  # fmt: skip
    adapter: tuple[AdapterChoice, ...] = option(
        (), "LoRA adapter that is merged into MODEL first, FOLDER or hub name, with :SCALE for a part of it; repeatable.",
        "Output", parse=AdapterChoice.parse,
    )  # fmt: skip
    seed: int = option(42, "Seed of every random choice.", "Tuning", range=(0, 2**63 - 1), sources=SOURCES)
    pv: bool = option(False, "PV-Tuning in the end: codes and levels change over all blocks at once.", "Tuning")
    activation_engine: Literal["none", "openvino", "onnx"] = option(
        "none", "Engine whose rounded activations are tuned for: none, openvino or onnx.", "Tuning"
    )
    device: str = option(
        "cpu", "Device of the tuning: cpu, cuda, xpu, hpu, or auto for the first accelerator there is.", "Tuning",
        allowed=DEVICES, sources=("unquantised", "quantised"),
    )  # fmt: skip
    tuning: TuningOptions = option(
        TuningOptions(), "TOML file with switches of the tuner (docs/guides/tuning-settings.md).", "Tuning",
        parse=lambda text: read_tuning_options(Path(text)),
    )  # fmt: skip
    budget: Budget | None = option(
        None, "Bits of each layer chosen for an average (4.2bits), a weights file (900MB) or a time a token by a table of "
        "`ovround profile` (12ms:table.json).",
        "Budget", parse=Budget.parse, about="integers",
    )  # fmt: skip

    def __post_init__(self) -> None:
        if not self.formats:
            raise UsageError("no format was given", hint=f"formats: {', '.join(FORMATS)}")
        check_values(self)
        if len(set(self.formats)) != len(self.formats):
            raise UsageError(f"format {', '.join(self.formats)}: one is named twice")
        self._check_steps()
        self._check_codebooks()
        self._check_native_weights()
        self._check_budget()

    def _check_steps(self) -> None:
        leave_out = "leave out one of the two"
        if self.recipe == "rtn" and self.iters:
            raise UsageError(f"recipe rtn does not tune, yet iters is {self.iters}", hint=leave_out)
        if self.tuning.end_to_end_steps and not self.tunes:
            raise UsageError(
                f"end_to_end_steps is {self.tuning.end_to_end_steps}, yet no block is tuned", hint=leave_out
            )
        if not self.pv:
            self._refuse("pv", "is a setting of --pv, which is not given")
        elif not self.tunes:
            raise UsageError("pv is given, yet no block is tuned", hint=leave_out)

    def _check_codebooks(self) -> None:
        codebooks = self.linear_codebooks
        if codebooks is None:
            self._refuse("codebooks", "is about codebooks, yet weights become integers")
            return
        codebooks.check()
        for name in self.formats:
            if name not in CODEBOOK_FORMATS:
                raise UsageError(
                    f"codebooks are given, which format {name} cannot hold",
                    hint=f"--format {' or '.join(CODEBOOK_FORMATS)}",
                )
        self._refuse("integers", "is about integers, yet weights become codebooks")
        if not self.tunes:
            raise UsageError("codebooks are learned from text, yet nothing is tuned", hint="--recipe light")

    def _refuse(self, subject: Subject, why: str) -> None:
        for entry in (*changed(self), *changed(self.tuning)):
            if entry.option.about == subject:
                raise UsageError(f"{entry.label} {why}", hint="leave it out")

    def _check_native_weights(self) -> None:
        if not self.native_weights:
            return
        other = next((name for name in self.formats if name not in ENGINE_FORMATS), None)
        if other is not None:
            raise UsageError(
                f"native-weights is a layout of {' and '.join(ENGINE_FORMATS)}, yet format is {other}",
                hint="leave out one of the two",
            )
        if self.budget is not None and self.budget.unit != "bits":
            raise UsageError(
                f"a budget in {self.budget.unit} counts 3 bits as 4, yet native-weights stores them in 3",
                hint="a budget in bits counts 3, such as --budget 3.5bits",
            )

    def _check_budget(self) -> None:
        if self.budget is not None and self.plan is not None:
            raise UsageError("budget and plan are both given", hint="leave out one of the two")
        written = next((name for name in self.formats if name in CHECKPOINT_FORMATS), None)
        if written is not None and self.budget is not None and self.budget.unit == "bytes":
            raise UsageError(
                f"a budget in bytes counts the file of an engine, yet format is {written}",
                hint="a budget in bits, or --format openvino or onnx",
            )
        for entry in changed(self):
            if self.plan is not None and entry.option.panel == "Grid" and entry.name != "plan":
                raise UsageError(
                    f"plan states every scheme, yet {entry.label} is given", hint="leave out one of the two"
                )
            if self.budget is not None and entry.name == "bits":
                raise UsageError("budget chooses the bits, yet bits is given", hint="leave out one of the two")

    @property
    def linear_codebooks(self) -> Codebooks | None:
        """The codebooks of every linear layer, None where they become integers."""
        return DEFAULT_CODEBOOKS if self.codebooks is None and "aqlm" in self.formats else self.codebooks

    @property
    def largest_default_group(self) -> int:
        """The largest group of a weight whose group size is not stated: a GGUF file has a scale for each 32 anyway."""
        return BLOCK if set(self.formats) <= set(FILE_FORMATS) else DEFAULT_GROUP_SIZES[0]

    @property
    def tunes(self) -> bool:
        """Whether weights are tuned, not rounded to nearest."""
        return resolved_recipe(self).iters > 0

    def as_json(self) -> dict[str, Any]:
        """Plain values for the manifest."""
        return {**plain(self), "recipe": self.recipe or DEFAULT_RECIPE}


def resolved_recipe(options: ConvertOptions) -> Recipe:
    """The recipe with what the options state in its place; a batch is at least CODES_BATCH_SIZE where codes are learned."""
    recipe, tuning = RECIPES[options.recipe or DEFAULT_RECIPE], options.tuning
    iters = recipe.iters if options.iters is None else options.iters
    least = CODES_BATCH_SIZE if options.pv or options.linear_codebooks is not None else 1
    return replace(
        recipe,
        iters=iters,
        nsamples=recipe.nsamples if options.nsamples is None else options.nsamples,
        batch_size=max(recipe.batch_size, least) if tuning.batch_size is None else tuning.batch_size,
    )


def default_of(name: str) -> Any:
    """The default of an option by the name of its field."""
    return next(entry.default for entry in declared(ConvertOptions) if entry.name == name)
