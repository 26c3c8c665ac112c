"""`TuningOptions`: how tuning works inside, for research; from Python, or from a TOML file."""

from __future__ import annotations

import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from ovround.errors import UsageError
from ovround.options.option import DeclaredOption, check_values, declared, did_you_mean, option

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib


@dataclass(frozen=True, slots=True)
class TuningOptions:
    """Switches of the tuner; the defaults are what measured best. None: decided by the recipe, the bits or the model."""

    batch_size: int | None = option(
        None, "Samples a tuning step, all processes together; default: the recipe's.", range=(1, 65_536)
    )
    bos: bool = option(
        True,
        "Samples that begin with what the tokenizer puts before a text (BOS); false: anywhere in the text, as in papers.",
    )
    end_to_end_steps: int | None = option(
        None,
        "End-to-end tuning steps after the per-block tuning; default: the recipe's, 0 above 120 million weights.",
        range=(0, 100_000),
    )
    block_group_size: int = option(1, "Number of consecutive blocks tuned jointly.", range=(1, 64))
    scales: Literal["free", "clipped"] = option(
        "free",
        "Scales: learned freely, or clipped by two learned factors, as in the SignRound paper.",
        about="integers",
    )
    initial_grid: Literal["extremes", "search", "compensated", "descent"] | None = option(
        None,
        "Start of scales and levels; default: descent, or extremes with clipped scales.",
        about="integers",
    )
    optimizer: Literal["adam", "sign"] | None = option(
        None,
        "Optimizer of levels and scales: Adam or the sign of the gradient; default: adam, or sign with clipped scales.",
        about="integers",
    )
    robust_loss: bool | None = option(None, "Loss without the largest errors; default: true at 2 and 3 bits.")
    norms: bool = option(True, "Norms and biases tuned too in the end-to-end steps.")
    embeddings: Literal["tuned", "rounded"] = option(
        "tuned", "Embedding and head of at most 4 bits: tuned, or rounded to nearest."
    )
    label_share: float = option(
        0.0, "Share of the text's own next token in the target of the end-to-end steps, 0 to 1.", range=(0, 1)
    )
    learn_codes: bool = option(
        True, "Codes changed while blocks are tuned; false: entries and scales alone.", about="codebooks"
    )
    pv_steps: int | None = option(
        None, "Steps of PV-Tuning; default: as many as steps a block.", range=(1, 100_000), about="pv"
    )
    pv_changes: float = option(
        0.01,
        "Share of vectors or levels that a step of PV-Tuning may change.",
        range=(0, 1),
        above_low=True,
        about="pv",
    )
    straight_through: bool = option(
        True, "Float copy of the weights that PV-Tuning follows; false: each step starts from the levels.", about="pv"
    )
    compile: Literal["auto", "on", "off"] = option(
        "auto", "Compilation of tuning steps by torch: on, off, or auto where it saves time.", fingerprint="none"
    )

    def __post_init__(self) -> None:
        check_values(self)
        if self.scales == "clipped" and self.initial_grid not in (None, "extremes"):
            raise UsageError(
                f"initial_grid is {self.initial_grid}, yet scales are clipped, which begin at the extremes",
                hint="leave out one of the two",
            )


def read_tuning_options(path: Path) -> TuningOptions:
    """The options in a TOML file; raises UsageError that names the file, the key, the value and what is allowed."""
    try:
        values: dict[str, Any] = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UsageError(f"tuning file `{path}` does not exist") from None
    except (OSError, ValueError, RecursionError) as error:
        raise UsageError(f"tuning file `{path}` cannot be read: {error}") from error
    known = {entry.name: entry for entry in declared(TuningOptions)}
    result = TuningOptions()
    for key, value in values.items():
        if key not in known:
            hint = did_you_mean(key, tuple(known)) or f"keys: {', '.join(known)}"
            raise UsageError(f"tuning file `{path}`: unknown key `{key}`", hint=hint)
        try:
            result = replace(result, **{key: _typed(known[key], value)})
        except UsageError as error:
            raise UsageError(f"tuning file `{path}`: {error}", hint=error.hint) from None
    return result


def _typed(entry: DeclaredOption, value: Any) -> Any:
    """The value with the type of its field; raises UsageError for another type."""
    wanted = entry.inner
    if wanted is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if type(value) is not wanted:
        words = {int: "a whole number", float: "a number", bool: "true or false", str: "a text"}
        allowed = f", one of {', '.join(map(str, entry.choices))}," if entry.choices else ""
        raise UsageError(f"{entry.label} is `{value}`; {words[wanted]}{allowed} is needed")
    return value
