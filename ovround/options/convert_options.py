"""The options of a conversion: a field here is the flag, the Python keyword, the manifest entry and the row in the docs."""

from __future__ import annotations

import dataclasses
import difflib
import math
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ovround.artifact.manifest import CHECKPOINT_FORMATS, CODEBOOK_FORMATS, FORMATS, TARGETS
from ovround.errors import UsageError
from ovround.tensors.qtensor import BITS, GROUP_SIZES

FLOAT_BITS = 16
HEAD_BITS = 8  # what optimum-intel writes for head and embedding too: half the bytes of 16, and no tuning needed


@dataclass(frozen=True, slots=True)
class Recipe:
    """Steps a block, calibration windows and how many a step sees, steps over all blocks for each of a block's; `rtn`: no text."""

    iters: int
    nsamples: int
    batch_size: int
    end_to_end: float


RECIPES = {
    "rtn": Recipe(0, 0, 1, 0),
    "light": Recipe(50, 128, 8, 0),
    "default": Recipe(200, 128, 4, 0.5),
    "best": Recipe(1000, 512, 8, 1),
}
CODES_BATCH_SIZE = 8  # at least, where codes are learned or PV-Tuning moves levels: noise must not choose what changes
METHODS = ("signround", "aqlm")
MOST_CODEBOOKS, CODEBOOK_BITS, VECTOR_SIZES = 16, range(1, 17), (2, 4, 8, 16, 32)
CODEBOOK_VALUE_BITS = 16  # entries and scales are float16
OPTIMIZERS = ("adam", "sign")
INITIAL_GRIDS = ("extremes", "search", "compensated", "descent")
SCALES = ("free", "clipped")
SNAPSHOTS = ("held-out", "last")
TABLES = ("tuned", "rounded")
ENGINES = ("none", *TARGETS)
DEVICES = ("auto", "cpu", "cuda", "xpu", "hpu")
COMPILE = ("auto", "on", "off")
END_TO_END_WEIGHTS = 120_000_000  # the largest model that recipes tune end to end: about 10 GB by estimate
FEW_BITS = 3  # up to so many, rounding alone is the weak link, and a few large errors decide a block's loss


@dataclass(frozen=True, slots=True)
class QuantScheme:
    """The grid of one weight: bits, inputs a group (-1: one group a row), symmetric or with zero points."""

    bits: int
    group_size: int
    symmetric: bool


@dataclass(frozen=True, slots=True)
class Codebooks:
    """What stands in place of a grid: each vector of `vector_size` inputs is a sum of one entry of each of `count` codebooks.

    A codebook has `2^bits` entries, and serves one weight `[N, K]`; each of its N rows has a scale.
    """

    count: int
    bits: int
    vector_size: int

    @property
    def code_bits(self) -> float:
        """Bits a weight of the codes alone."""
        return self.count * self.bits / self.vector_size

    @property
    def entry_bits(self) -> int:
        """Bits of all entries of all codebooks of one weight."""
        return self.count * self.vector_size * CODEBOOK_VALUE_BITS << self.bits

    def size_bits(self, shape: tuple[int, ...]) -> float:
        """Bits of a weight `[N, K]`: codes, entries and scales."""
        return self.code_bits * shape[0] * shape[1] + self.entry_bits + CODEBOOK_VALUE_BITS * shape[0]

    def __str__(self) -> str:
        return f"{self.count}x{self.bits}"


WeightScheme = QuantScheme | Codebooks


@dataclass(frozen=True, slots=True)
class LayerRule:
    """An exception for the modules whose name `pattern` is found in; what is None follows the general options."""

    pattern: str
    bits: int | None = None
    group_size: int | None = None
    sym: bool | None = None

    def __post_init__(self) -> None:
        try:
            re.compile(self.pattern)
        except re.error as error:
            raise UsageError(f"layer rule: `{self.pattern}` is no regular expression: {error}") from error
        if self.bits is not None:
            _one_of("bits", self.bits, (*BITS, FLOAT_BITS))
        if self.group_size is not None:
            _one_of("group_size", self.group_size, GROUP_SIZES)

    @classmethod
    def parse(cls, text: str) -> LayerRule:
        """Read `REGEX=bits:8,group_size:32,sym:false`; raises UsageError saying which part is wrong."""
        pattern, found, settings = text.rpartition("=")
        if not found or not pattern or not settings:
            raise UsageError(
                f"layer rule `{text}` is not REGEX=key:value", hint="example: 'down_proj=bits:8,group_size:32'"
            )
        values: dict[str, Any] = {}
        for setting in settings.split(","):
            key, _, value = setting.partition(":")
            if key not in ("bits", "group_size", "sym"):
                raise UsageError(f"layer rule `{text}`: unknown key `{key}`", hint="keys: bits, group_size, sym")
            try:
                values[key] = {"true": True, "false": False}[value] if key == "sym" else int(value)
            except (ValueError, KeyError):
                raise UsageError(f"layer rule `{text}`: `{value}` is no value for {key}") from None
        return cls(pattern, **values)


@dataclass(frozen=True, slots=True)
class ConvertOptions:
    """Everything that decides the bytes of a conversion, checked here before anything is read.

    None means: taken from the recipe (`iters`, `nsamples`, `batch_size`; `end_to_end` too, unless the model is too large),
    from the model (`seqlen`: its context, at most 2048), 8 bits, or 16 for a model that is not quantised or is written as a
    checkpoint (`lm_head_bits`, `embedding_bits`), on at 2 and 3 bits (`robust_loss`), descent unless scales are clipped
    (`initial_grid`), adam likewise (`optimizer`), aqlm for that format and else signround (`method`), as many as steps a
    block (`pv_steps`).
    """

    formats: tuple[str, ...] = ("openvino",)
    method: str | None = None
    bits: int = 4
    group_size: int = 128
    sym: bool = True
    recipe: str = "default"
    iters: int | None = None
    nsamples: int | None = None
    seqlen: int | None = None
    batch_size: int | None = None
    calibration: tuple[Path, ...] = ()
    seed: int = 42
    lm_head_bits: int | None = None
    embedding_bits: int | None = None
    layers: tuple[LayerRule, ...] = field(default=())
    target_bits: float | None = None
    target_size_bytes: int | None = None
    target_latency_ms: float | None = None
    profile: Path | None = None
    plan: Path | None = None
    initial_grid: str | None = None
    optimizer: str | None = None
    scales: str = "free"
    snapshot: str = "held-out"
    robust_loss: bool | None = None
    end_to_end: int | None = None
    norms: bool = True
    label_share: float = 0.0
    window: int = 1
    tables: str = "tuned"
    codebooks: int = 2
    codebook_bits: int = 8
    vector_size: int = 8
    learn_codes: bool = True
    pv: bool = False
    pv_steps: int | None = None
    pv_changes: float = 0.01
    straight_through: bool = True
    native_weights: bool = False
    engine: str = "none"
    device: str = "cpu"
    compile: str = "auto"
    verify: bool = True

    def __post_init__(self) -> None:
        if not self.formats:
            raise UsageError("no format was given", hint=f"formats: {', '.join(FORMATS)}")
        for name in self.formats:
            _one_of("format", name, FORMATS)
        if len(set(self.formats)) != len(self.formats):
            raise UsageError(f"format {', '.join(self.formats)}: one is named twice")
        _one_of("bits", self.bits, (*BITS, FLOAT_BITS))
        _one_of("group-size", self.group_size, GROUP_SIZES)
        _one_of("recipe", self.recipe, tuple(RECIPES))
        for name, value in (("lm-head-bits", self.lm_head_bits), ("embedding-bits", self.embedding_bits)):
            if value is not None:
                _one_of(name, value, (*BITS, FLOAT_BITS))
        _one_of("scales", self.scales, SCALES)
        _one_of("snapshot", self.snapshot, SNAPSHOTS)
        _one_of("tables", self.tables, TABLES)
        _one_of("target", self.engine, ENGINES)
        _one_of("device", self.device, DEVICES)
        _one_of("compile", self.compile, COMPILE)
        if self.optimizer is not None:
            _one_of("optimizer", self.optimizer, OPTIMIZERS)
        if self.initial_grid is not None:
            _one_of("initial-grid", self.initial_grid, INITIAL_GRIDS)
            if self.scales == "clipped" and self.initial_grid != "extremes":
                raise UsageError(
                    f"initial-grid is {self.initial_grid}, yet scales are clipped, which begin at the extremes",
                    hint="leave out one of the two",
                )
        for name, value, low, high in (
            ("end-to-end", self.end_to_end, 0, 100_000),
            ("iters", self.iters, 0, 100_000),
            ("nsamples", self.nsamples, 1, 1_000_000),
            ("seqlen", self.seqlen, 8, 1_000_000),
            ("batch-size", self.batch_size, 1, 65_536),
            ("window", self.window, 1, 64),
            ("seed", self.seed, 0, 2**63 - 1),
        ):
            if value is not None and not low <= value <= high:
                raise UsageError(f"{name} is {value}; {low} to {high} is allowed")
        if not 0 <= self.label_share <= 1:
            raise UsageError(f"label-share is {self.label_share}; a share of 0 to 1 is allowed")
        if self.recipe == "rtn" and self.iters:
            raise UsageError(f"recipe rtn does not tune, yet iters is {self.iters}", hint="leave out one of the two")
        if self.end_to_end and not self.steps:
            raise UsageError(f"end-to-end is {self.end_to_end}, yet no block is tuned", hint="leave out one of the two")
        self._check_method()
        self._check_native_weights()
        self._check_targets()

    def _check_method(self) -> None:
        if self.method is not None:
            _one_of("method", self.method, METHODS)
        for name, low, high in (("codebooks", 1, MOST_CODEBOOKS), ("codebook_bits", 1, max(CODEBOOK_BITS))):
            if not low <= getattr(self, name) <= high:
                raise UsageError(f"{_flag(name)} is {getattr(self, name)}; {low} to {high} is allowed")
        _one_of("vector-size", self.vector_size, VECTOR_SIZES)
        if not 0 < self.pv_changes <= 1:
            raise UsageError(f"pv-changes is {self.pv_changes}; a share above 0, at most 1, is allowed")
        if self.pv_steps is not None and not 1 <= self.pv_steps <= 100_000:
            raise UsageError(f"pv-steps is {self.pv_steps}; 1 to 100000 is allowed")
        if self.pv and not self.steps:
            raise UsageError("pv is given, yet no block is tuned", hint="leave out one of the two")
        if not self.pv:
            self._refuse(("pv_steps", "pv_changes", "straight_through"), "is a setting of --pv, which is not given")
        if self.tuner != "aqlm":
            self._refuse(("codebooks", "codebook_bits", "vector_size", "learn_codes"), "is a setting of --method aqlm")
            return
        for name in self.formats:
            if name not in CODEBOOK_FORMATS:
                raise UsageError(
                    f"method aqlm makes codebooks, which format {name} cannot hold",
                    hint=f"--format {' or '.join(CODEBOOK_FORMATS)}",
                )
        grid = ("bits", "initial_grid", "target_bits", "target_size_bytes", "target_latency_ms", "plan")
        self._refuse((*grid, "scales", "optimizer"), "is about integer grids, yet method is aqlm")
        if not self.steps:
            raise UsageError("method aqlm learns codebooks from text, yet nothing is tuned", hint="--recipe light")

    def _refuse(self, names: tuple[str, ...], why: str) -> None:
        defaults = {one.name: one.default for one in dataclasses.fields(self)}
        for name in names:
            if getattr(self, name) != defaults[name]:
                raise UsageError(f"{_flag(name)} {why}", hint="leave it out")

    def _check_native_weights(self) -> None:
        if not self.native_weights:
            return
        other = next((name for name in self.formats if name not in TARGETS), None)
        if other is not None:
            raise UsageError(
                f"native-weights is a layout of {' and '.join(TARGETS)}, yet format is {other}",
                hint="leave out one of the two",
            )
        for name, value in (("target-size", self.target_size_bytes), ("target-latency", self.target_latency_ms)):
            if value is not None:
                raise UsageError(
                    f"{name} counts 3 bits as 4, yet native-weights stores them in 3", hint="--target-bits counts 3"
                )

    def _check_targets(self) -> None:
        targets = self._targets()
        given = [*targets, *(["plan"] if self.plan is not None else [])]
        if len(given) > 1:
            raise UsageError(f"{given[0]} and {given[1]} are both given", hint="leave out one of the two")
        for name, value in targets.items():
            if not 0 < value < math.inf:
                raise UsageError(f"{name} is {value}; a number above 0 is needed")
        if (self.profile is None) == (self.target_latency_ms is not None):
            alone, other = ("profile", "target-latency") if self.profile else ("target-latency", "profile")
            raise UsageError(f"{alone} is given without {other}", hint="`ovround profile MODEL FILE` measures a table")
        written = [name for name in self.formats if name in CHECKPOINT_FORMATS]
        if written and self.target_size_bytes is not None:
            raise UsageError(
                f"target-size counts the file of an engine, yet format is {written[0]}",
                hint="--target-bits, or --target-size with --format openvino or onnx",
            )
        grid = ("bits", "group_size", "sym", "lm_head_bits", "embedding_bits", "layers")
        for one in dataclasses.fields(self):
            stated = one.name in grid if self.plan is not None else bool(targets) and one.name == "bits"
            if stated and getattr(self, one.name) != one.default:
                what = "chooses the bits" if targets else "states every grid"
                flag = one.name.removesuffix("s") if one.name == "layers" else one.name.replace("_", "-")
                raise UsageError(f"{given[0]} {what}, yet {flag} is given", hint="leave out one of the two")

    def _targets(self) -> dict[str, float]:
        values = (self.target_bits, self.target_size_bytes, self.target_latency_ms)
        names = ("target-bits", "target-size", "target-latency")
        return {name: value for name, value in zip(names, values, strict=True) if value is not None}

    @property
    def target(self) -> tuple[str, float] | None:
        """The name of the target that is given, and its value: bits a weight, bytes, or milliseconds a token."""
        return next(iter(self._targets().items()), None)

    @property
    def tuner(self) -> str:
        """What linear layers become: one of METHODS."""
        return self.method or ("aqlm" if "aqlm" in self.formats else "signround")

    @property
    def layout(self) -> Codebooks:
        """The codebooks of every weight, where `tuner` is aqlm."""
        return Codebooks(self.codebooks, self.codebook_bits, self.vector_size)

    @property
    def steps_of_pv(self) -> int:
        """Steps of PV-Tuning over all blocks; 0 without it."""
        return (self.steps if self.pv_steps is None else self.pv_steps) if self.pv else 0

    @property
    def steps(self) -> int:
        """Tuning steps a block; 0 rounds to nearest."""
        return RECIPES[self.recipe].iters if self.iters is None else self.iters

    @property
    def starts_at(self) -> str:
        """Where tuning begins: one of INITIAL_GRIDS."""
        return self.initial_grid or ("extremes" if self.scales == "clipped" else "descent")

    @property
    def moves_by(self) -> str:
        """What moves levels and scales while a block is tuned: one of OPTIMIZERS."""
        return self.optimizer or ("sign" if self.scales == "clipped" else "adam")

    @property
    def windows(self) -> int:
        """Calibration windows that gradients are taken on."""
        return RECIPES[self.recipe].nsamples if self.nsamples is None else self.nsamples

    @property
    def batch(self) -> int:
        """Windows a tuning step, all processes together."""
        if self.batch_size is not None:
            return self.batch_size
        batch = RECIPES[self.recipe].batch_size
        return max(batch, CODES_BATCH_SIZE) if self.pv or self.tuner == "aqlm" else batch

    def as_json(self) -> dict[str, Any]:
        """Plain values for the manifest; paths by their last part, so that the folder's place does not change the bytes."""
        plain = dataclasses.asdict(self)
        plain["formats"] = list(self.formats)
        plain["profile"] = self.profile.name if self.profile else None
        plain["plan"] = self.plan.name if self.plan else None
        plain["calibration"] = [path.name for path in self.calibration]
        plain["layers"] = [dataclasses.asdict(rule) for rule in self.layers]
        return plain


_SIZE = re.compile(r"(\d+(?:\.\d+)?) ?([KMGT]?)(i?)B?", re.IGNORECASE)


def parse_size(name: str, text: str) -> int:
    """Bytes of a size such as `4GB`, `512 MiB` or `1000000`; raises UsageError naming the option."""
    match = _SIZE.fullmatch(text.strip())
    size = float(match[1]) * (1024 if match[3] else 1000) ** " KMGT".index(match[2].upper() or " ") if match else 0.0
    if not 1 <= size < 2**63:
        raise UsageError(
            f"{name} is `{text}`, which is no size", hint=f"example: --{name} 4GB (or MB, GiB, MiB, bytes)"
        )
    return int(size)


_DURATION = re.compile(r"(\d+(?:\.\d+)?) ?(us|ms|s)")


def parse_milliseconds(name: str, text: str) -> float:
    """Milliseconds of a time such as `12ms`, `0.5 s` or `800us`; raises UsageError naming the option."""
    match = _DURATION.fullmatch(text.strip())
    if not match:
        raise UsageError(f"{name} is `{text}`, which is no time", hint=f"example: --{name} 12ms (or s, us)")
    return float(match[1]) * {"us": 1e-3, "ms": 1.0, "s": 1e3}[match[2]]


def _flag(name: str) -> str:
    """The option of a field, as it is typed."""
    return {"target_size_bytes": "target-size", "target_latency_ms": "target-latency"}.get(name, name.replace("_", "-"))


def _one_of(name: str, value: object, allowed: tuple[object, ...]) -> None:
    if value in allowed:
        return
    close = difflib.get_close_matches(str(value), [str(choice) for choice in allowed], 1)
    hint = f"did you mean `{close[0]}`?" if close and isinstance(value, str) else None
    raise UsageError(f"{name} is `{value}`; allowed: {', '.join(str(choice) for choice in allowed)}", hint=hint)
