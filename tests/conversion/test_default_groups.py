"""The group size that nobody stated: the largest of 128, 64, 32, 16 that divides a weight's inputs, else its whole row."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from checkpoint_writer import tiny_config, write_checkpoint
from typer.testing import CliRunner

from ovround.artifact.manifest import CHECKPOINT_FORMATS, ENGINE_FORMATS, read_manifest
from ovround.cli.app import app
from ovround.conversion.convert import convert
from ovround.errors import UsageError
from ovround.models import from_config
from ovround.options.budget import Budget
from ovround.options.convert_options import ConvertOptions
from ovround.options.layer_rule import LayerRule
from ovround.quant.plan import make_plan
from ovround.tensors.scheme import Codebooks, QuantScheme, default_group_size

SIZES = {
    "hidden_size": 192,
    "intermediate_size": 288,
    "num_attention_heads": 3,
    "num_key_value_heads": 1,
    "head_dim": 128,
}
GROUPS = {192: 64, 288: 32, 384: 128}  # inputs -> group size
INTEGER_FORMATS = tuple(name for name in (*ENGINE_FORMATS, *CHECKPOINT_FORMATS) if name != "aqlm")


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_checkpoint(tmp_path_factory.mktemp("groups") / "source", tiny_config(**SIZES))


def groups_of(folder: Path) -> dict[int, set[int]]:
    """Group sizes by inputs of the quantised weights."""
    groups: dict[int, set[int]] = {}
    for weight in read_manifest(folder).weights:
        if weight.group_size and not weight.codebooks:
            groups.setdefault(weight.shape[1], set()).add(weight.group_size)
    return groups


@pytest.mark.parametrize(
    ("inputs", "size"), [(4096, 128), (576, 64), (896, 128), (4544, 64), (96, 32), (1200, 16), (172, -1), (7, -1)]
)
def test_the_largest_that_divides_else_the_whole_row(inputs: int, size: int) -> None:
    assert default_group_size(inputs) == size


@pytest.mark.parametrize("name", INTEGER_FORMATS)
def test_every_format_holds_groups_by_weight(source: Path, name: str, tmp_path: Path) -> None:
    (folder,) = convert(source, tmp_path / "out", ConvertOptions(formats=(name,), recipe="rtn")).folders  # verified too
    assert groups_of(folder) == {inputs: {size} for inputs, size in GROUPS.items()}


def test_the_same_groups_typed_by_hand_give_the_same_integers(source: Path, tmp_path: Path) -> None:
    by_hand = ConvertOptions(
        group_size=64, recipe="rtn",
        layers=(LayerRule("down_proj", group_size=32), LayerRule("o_proj", group_size=128)),
    )  # fmt: skip
    ours, theirs = (
        convert(source, tmp_path / name, options).manifests[0].weights
        for name, options in (("default", ConvertOptions(recipe="rtn")), ("by_hand", by_hand))
    )
    assert ours == theirs


def test_rows_that_no_group_divides_get_one_scale(tmp_path: Path) -> None:
    model = write_checkpoint(tmp_path / "model", tiny_config(intermediate_size=172))
    formats = (*ENGINE_FORMATS, "compressed-tensors")
    for folder in convert(model, tmp_path / "out", ConvertOptions(formats=formats, recipe="rtn")).folders:
        assert groups_of(folder) == {64: {64}, 128: {128}, 172: {172}}


@pytest.mark.parametrize(
    "options",
    [
        {"activation_engine": "openvino", "iters": 2, "nsamples": 8, "seqlen": 16},
        {"activation_engine": "onnx", "iters": 2, "nsamples": 8, "seqlen": 16, "formats": ("onnx",)},
        {"budget": Budget(4.5, "bits"), "recipe": "rtn"},
        {"budget": Budget(1.0, "bytes"), "recipe": "rtn"},
        {"native_weights": True, "recipe": "rtn", "formats": ENGINE_FORMATS},
    ],
    ids=["openvino's activations", "onnx's activations", "bits", "bytes", "native"],
)
def test_what_depends_on_groups_takes_them_by_weight(source: Path, options: dict[str, Any], tmp_path: Path) -> None:
    if options.get("budget") == Budget(1.0, "bytes"):
        whole = convert(source, tmp_path / "whole", ConvertOptions(recipe="rtn")).folders[0]
        size = (whole / "openvino_model.bin").stat().st_size
        options = {**options, "budget": Budget(size, "bytes")}
    for folder in convert(source, tmp_path / "out", ConvertOptions(**options)).folders:
        assert groups_of(folder) == {inputs: {size} for inputs, size in GROUPS.items()}


def test_codebooks_leave_the_default_to_the_ends(source: Path, tmp_path: Path) -> None:
    options = ConvertOptions(codebooks=Codebooks(1, 4, 4), iters=1, nsamples=8, seqlen=16)
    folder = convert(source, tmp_path / "out", options).folders[0]
    assert groups_of(folder) == {192: {64}}


def test_a_stated_group_is_checked_as_before(source: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="group size 128 does not divide the 192 inputs"):
        convert(source, tmp_path / "out", ConvertOptions(group_size=128, recipe="rtn"))
    decoder = from_config(tiny_config(**SIZES))
    plan = make_plan(decoder, ConvertOptions(layers=(LayerRule("down_proj", group_size=16),)))
    assert plan["model.layers.0.mlp.down_proj"] == QuantScheme(4, 16, True)
    assert plan["model.layers.0.mlp.up_proj"] == QuantScheme(4, 64, True)


def test_the_groups_are_reported_and_written_down(source: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    result = CliRunner().invoke(app, ["convert", str(source), str(out), "--recipe", "rtn", "--quiet"])
    assert result.exit_code == 0, result.output
    assert "group size 64 for weights of 192 inputs, which 128 does not divide\n" in result.output
    assert "group size 32 for weights of 288 inputs, which 128 does not divide\n" in result.output
    assert read_manifest(out).options["group_size"] is None
    card = (out / "README.md").read_text()
    assert "4 bits, group 128, 64 over 192 inputs, 32 over 288 inputs, symmetric" in card
    assert "--group-size" not in card.partition("## Made by")[2].partition("## Use")[0]
    assert json.loads((out / "ovround.json").read_text())["weights"][0]["group_size"] == 64
    given = ["convert", str(source), str(tmp_path / "given"), "--recipe", "rtn", "--group-size", "32", "--quiet"]
    assert "does not divide" not in CliRunner().invoke(app, given).output
