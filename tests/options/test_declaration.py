"""An option is declared once: flag, check, manifest, fingerprint, sources and reference follow from the field."""

from __future__ import annotations

import inspect
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

import pytest
import typer
from tool_module import tool_module
from typer.testing import CliRunner

from ovround.cli import convert, quantize
from ovround.cli.option_flags import PanelCommand, flag_parameters, options_from, with_flags
from ovround.errors import UsageError
from ovround.options.convert_options import ConvertOptions
from ovround.options.option import changed, declared, option
from ovround.options.tuning_options import TuningOptions, read_tuning_options
from ovround.quant.fingerprint import option_values

ROOT = Path(__file__).resolve().parents[2]
MOST_FLAGS = 26


@dataclass(frozen=True, slots=True)
class MoreOptions(ConvertOptions):
    """One field more, and nothing else."""

    sparsity: int = option(50, "Share of zeros in percent.", "Grid", range=(0, 90), sources=("unquantised", "ir"))


def typed(*words: str) -> MoreOptions:
    """The options that a command line gives."""
    given: list[MoreOptions] = []

    def command(**options: Any) -> None:
        """Take options."""
        made = options_from(options, MoreOptions)
        assert isinstance(made, MoreOptions)
        given.append(made)

    with_flags(command, flag_parameters(MoreOptions))
    app = typer.Typer(rich_markup_mode=None)
    app.command(cls=PanelCommand)(command)
    result = CliRunner().invoke(app, words, catch_exceptions=False)
    assert result.exit_code == 0, result.output
    if not given:
        raise LookupError(result.output)
    return given[0]


@pytest.fixture
def reference() -> Any:
    """The generator of docs/reference."""
    return tool_module("reference")


def test_a_field_is_all_that_a_new_option_needs(reference: Any) -> None:
    assert (typed().sparsity, typed("--sparsity", "75").sparsity) == (50, 75)
    with pytest.raises(
        LookupError, match=r"(?s)Grid:.*--sparsity <int> .*Share of zeros in percent\. +\[default: 50\]"
    ):
        typed("--help")
    for make in (lambda: typed("--sparsity", "91"), lambda: MoreOptions(sparsity=91)):
        with pytest.raises(UsageError, match="sparsity is 91; 0 to 90 is allowed"):
            make()
    more = MoreOptions(sparsity=75)
    assert more.as_json()["sparsity"] == 75  # the manifest's entry
    assert option_values(more)["sparsity"] == "75"  # the fingerprint's
    assert [(entry.name, entry.option.sources) for entry in changed(more)] == [("sparsity", ("unquantised", "ir"))]
    assert "| `sparsity` | `--sparsity` | `int` | `50` | Share of zeros in percent. |" in reference._options_table(
        MoreOptions
    )


@pytest.mark.parametrize("entry", declared(ConvertOptions), ids=lambda entry: entry.name)
def test_every_field_has_a_flag_a_manifest_entry_and_a_row(entry: Any) -> None:
    parameter = inspect.signature(convert.command).parameters[entry.name]
    info = get_args(parameter.annotation)[1]
    assert (info.default, info.help, info.rich_help_panel) == (entry.flag, entry.option.help, entry.option.panel)
    assert entry.name in ConvertOptions().as_json()
    page = (ROOT / "docs" / "reference" / "options.md").read_text(encoding="utf-8")
    assert f"| `{entry.name}` | `{entry.flag}` |" in page


@pytest.mark.parametrize("entry", declared(TuningOptions), ids=lambda entry: entry.name)
def test_every_tuning_key_has_a_row_in_reference_and_guide(entry: Any) -> None:
    for page in ("reference/options.md", "guides/tuning-settings.md"):
        assert f"\n| `{entry.name}` |" in (ROOT / "docs" / page).read_text(encoding="utf-8"), page
    assert entry.name in ConvertOptions().as_json()["tuning"]


@pytest.mark.parametrize("record", [ConvertOptions, TuningOptions])
def test_every_bound_is_checked(record: Callable[..., Any]) -> None:
    for entry in declared(record):  # type: ignore[arg-type]
        wrong: list[Any] = ["no such choice"] if entry.choices else []
        if entry.option.range is not None:
            low, high = entry.option.range
            wrong += [low - 1, high + 1]
        for value in wrong:
            with pytest.raises(UsageError, match=f"^{entry.label} is .* allowed"):
                record(**{entry.name: (value,) if entry.repeatable else value})


def test_convert_shows_few_flags() -> None:
    flags = [
        name
        for name, parameter in inspect.signature(convert.command).parameters.items()
        if name not in ("model", "out")
    ]
    assert len(flags) <= MOST_FLAGS
    assert [name for name in inspect.signature(quantize.command).parameters if name not in ("model", "out")] == [
        name for name in flags if name != "formats"
    ]


def test_options_are_plain_values_in_the_manifest() -> None:
    options = ConvertOptions(calibration=(Path("/place/words.txt"),), tuning=TuningOptions(batch_size=2))
    document = json.loads(json.dumps(options.as_json()))
    assert document["calibration"] == ["words.txt"]
    assert (document["tuning"]["batch_size"], document["budget"], document["layers"]) == (2, None, [])


def test_formats_are_not_in_the_fingerprint() -> None:
    values = option_values(ConvertOptions()) | option_values(TuningOptions())
    assert {"format", "native-weights", "calibration", "compile"} & set(values) == set()
    assert (values["bits"], values["scales"], values["batch_size"]) == ("4", "free", "null")


# Tuning files


def read(folder: Path, text: str) -> TuningOptions:
    (folder / "t.toml").write_text(text, encoding="utf-8")
    return read_tuning_options(folder / "t.toml")


def test_a_tuning_file_gives_options(tmp_path: Path) -> None:
    text = 'scales = "clipped"\nlabel_share = 1\nrobust_loss = false\nbatch_size = 3\n'
    assert read(tmp_path, text) == TuningOptions(scales="clipped", label_share=1.0, robust_loss=False, batch_size=3)
    assert read(tmp_path, "") == TuningOptions()


@pytest.mark.parametrize(
    ("text", "said", "hint"),
    [
        ("batchsize = 3", "unknown key `batchsize`", "did you mean `batch_size`?"),
        ("batch_size = 0", "batch_size is 0; 1 to 65536 is allowed", None),
        ("batch_size = '3'", "batch_size is `3`; a whole number is needed", None),
        ("batch_size = true", "batch_size is `True`; a whole number is needed", None),
        ("label_share = 1.5", "label_share is 1.5; 0 to 1 is allowed", None),
        ("label_share = nan", "label_share is nan; 0 to 1 is allowed", None),
        ("norms = 1", "norms is `1`; true or false is needed", None),
        ("scales = 'freee'", "scales is `freee`; allowed: free, clipped", "did you mean `free`?"),
        ("scales = 1", "scales is `1`; a text, one of free, clipped, is needed", None),
        ("scales = 'clipped'\ninitial_grid = 'search'", "initial_grid is search, yet scales are clipped", "leave out"),
        ("= 3", "cannot be read: ", None),
        ("[numbers]\nbatch_size = 3", "unknown key `numbers`", "keys: batch_size, "),
    ],
)
def test_a_wrong_tuning_file_names_file_key_and_value(tmp_path: Path, text: str, said: str, hint: str | None) -> None:
    with pytest.raises(UsageError) as caught:
        read(tmp_path, text)
    assert str(tmp_path / "t.toml") in str(caught.value)
    assert said in str(caught.value)
    assert (caught.value.hint or "").startswith(hint or "")


def test_a_tuning_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"tuning file `.*none\.toml` does not exist"):
        read_tuning_options(tmp_path / "none.toml")
