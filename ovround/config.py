"""The options of a conversion: a field here is the flag, the Python keyword, the manifest entry and the row in the docs."""

from __future__ import annotations

import dataclasses
import difflib
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ovround.artifact import TARGETS
from ovround.errors import UsageError
from ovround.qtensor import BITS, GROUP_SIZES

FLOAT_BITS = 16
HEAD_BITS = 8  # what optimum-intel writes for head and embedding too: half the bytes of 16, and no tuning needed


@dataclass(frozen=True, slots=True)
class Recipe:
    """How long to tune: steps a block and calibration windows; `rtn` rounds to nearest and reads no text."""

    iters: int
    nsamples: int


RECIPES = {
    "rtn": Recipe(0, 0),
    "light": Recipe(50, 128),
    "default": Recipe(200, 128),
    "best": Recipe(1000, 512),
}


@dataclass(frozen=True, slots=True)
class Scheme:
    """The grid of one weight: bits, inputs a group (-1: one group a row), symmetric or with zero points."""

    bits: int
    group_size: int
    symmetric: bool


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

    None means: taken from the recipe (`iters`, `nsamples`), from the model (`seqlen`: its context, at most 2048), or
    8 bits for a quantised model and 16 for one that is not (`lm_head_bits`, `embedding_bits`).
    """

    formats: tuple[str, ...] = ("openvino",)
    bits: int = 4
    group_size: int = 128
    sym: bool = True
    recipe: str = "default"
    iters: int | None = None
    nsamples: int | None = None
    seqlen: int | None = None
    batch_size: int = 8
    calibration: tuple[Path, ...] = ()
    seed: int = 42
    lm_head_bits: int | None = None
    embedding_bits: int | None = None
    layers: tuple[LayerRule, ...] = field(default=())
    verify: bool = True

    def __post_init__(self) -> None:
        if not self.formats:
            raise UsageError("no format was given", hint=f"formats: {', '.join(TARGETS)}")
        for name in self.formats:
            _one_of("format", name, TARGETS)
        if len(set(self.formats)) != len(self.formats):
            raise UsageError(f"format {', '.join(self.formats)}: one is named twice")
        _one_of("bits", self.bits, (*BITS, FLOAT_BITS))
        _one_of("group-size", self.group_size, GROUP_SIZES)
        _one_of("recipe", self.recipe, tuple(RECIPES))
        for name, value in (("lm-head-bits", self.lm_head_bits), ("embedding-bits", self.embedding_bits)):
            if value is not None:
                _one_of(name, value, (*BITS, FLOAT_BITS))
        for name, value, low, high in (
            ("iters", self.iters, 0, 100_000),
            ("nsamples", self.nsamples, 1, 1_000_000),
            ("seqlen", self.seqlen, 8, 1_000_000),
            ("batch-size", self.batch_size, 1, 65_536),
            ("seed", self.seed, 0, 2**63 - 1),
        ):
            if value is not None and not low <= value <= high:
                raise UsageError(f"{name} is {value}; {low} to {high} is allowed")
        if self.recipe == "rtn" and self.iters:
            raise UsageError(f"recipe rtn does not tune, yet iters is {self.iters}", hint="leave out one of the two")

    @property
    def steps(self) -> int:
        """Tuning steps a block; 0 rounds to nearest."""
        return RECIPES[self.recipe].iters if self.iters is None else self.iters

    @property
    def windows(self) -> int:
        """Calibration windows that gradients are taken on."""
        return RECIPES[self.recipe].nsamples if self.nsamples is None else self.nsamples

    def as_json(self) -> dict[str, Any]:
        """Plain values for the manifest; paths by their last part, so that the folder's place does not change the bytes."""
        plain = dataclasses.asdict(self)
        plain["formats"] = list(self.formats)
        plain["calibration"] = [path.name for path in self.calibration]
        plain["layers"] = [dataclasses.asdict(rule) for rule in self.layers]
        return plain


def _one_of(name: str, value: object, allowed: tuple[object, ...]) -> None:
    if value in allowed:
        return
    close = difflib.get_close_matches(str(value), [str(choice) for choice in allowed], 1)
    hint = f"did you mean `{close[0]}`?" if close and isinstance(value, str) else None
    raise UsageError(f"{name} is `{value}`; allowed: {', '.join(str(choice) for choice in allowed)}", hint=hint)
