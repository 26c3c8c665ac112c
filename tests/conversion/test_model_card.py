"""The README.md of a converted folder reports the measured quality, and its command reproduces the folder."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
from checkpoint_writer import write_checkpoint
from command_server import CommandServer, Result, succeeded
from tuning_file import tuning_file

from ovround.artifact.manifest import ENGINE_FORMATS, read_manifest


def test_the_card_says_what_was_measured_and_how_to_make_it_again(converted: tuple[Path, Result]) -> None:
    out, _ = converted
    for engine in ENGINE_FORMATS:
        manifest, card = read_manifest(out / engine), (out / engine / "README.md").read_text(encoding="utf-8")
        front = card.split("---\n")[1].splitlines()
        assert 'base_model: "demo"' in front
        assert {"- ovround", f"- {engine}", "- llama", "library_name: ovround"} <= set(front)
        quality = manifest.quality
        assert quality is not None
        assert f"{quality.perplexity_original:.4f} original, {quality.perplexity_quantised:.4f} quantised" in card
        assert f"{quality.kl_nats:.5f} nats" in card
        assert "SignRound" in card
        sizes = re.findall(r"^\| (\d+) \| \S+ \| \w+ \| (\d+) \|", card, re.M)
        assert sum(int(number) for _, number in sizes) == len(manifest.weights)
        assert {int(bits) for bits, _ in sizes} == {3, 8, 16}


@pytest.mark.parametrize(
    "options",
    [
        ("--recipe", "rtn", "--group-size", "32"),
        ("--bits", "16"),
        ("--bits", "2", "--asym", "--group-size", "16", "--recipe", "rtn", "--seed", "7", "--lm-head-bits", "4"),
        ("--iters", "2", "--nsamples", "8", "--seqlen", "32", "--tuning", "tuning.toml", "--group-size", "32"),
        ("--recipe", "rtn", "--group-size", "32", "--layer", "0.*(up|down)_proj=bits:8,sym:false", "--layer", "o_proj=bits:16"),
        ("--bits", "16", "--lm-head-bits", "4", "--group-size", "32", "--recipe", "rtn"),
        ("--iters", "2", "--nsamples", "8", "--seqlen", "32", "--group-size", "32", "--calibration", "some words.txt"),
    ],
    ids=" ".join,
)  # fmt: skip
def test_the_cards_command_gives_the_same_folder_again(
    loaded_command: CommandServer, tmp_path: Path, text_file: Path, options: tuple[str, ...]
) -> None:
    write_checkpoint(tmp_path / "my model")
    (tmp_path / "some words.txt").write_bytes(text_file.read_bytes())
    tuning_file(tmp_path, batch_size=3)
    succeeded(loaded_command("convert", "my model", "first", "--format", "onnx", *options, cwd=tmp_path))
    card = (tmp_path / "first" / "README.md").read_text(encoding="utf-8")
    stated = "\n```toml\nbatch_size = 3\n```\n" in card
    assert stated == ("--tuning" in options)
    words = shlex.split(card.partition("## Made by\n\n```\n")[2].partition("\n```")[0])
    assert words[:4] == ["ovround", "convert", "my model", "OUT"]
    succeeded(loaded_command(*words[1:], cwd=tmp_path))
    weights = {name: [w.sha256 for w in read_manifest(tmp_path / name).weights] for name in ("first", "OUT")}
    assert weights["OUT"] == weights["first"]


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (("--recipe", "rtn", "--group-size", "32"), "rounded to nearest"),
        (("--iters", "0", "--group-size", "32"), "rounded to nearest"),
        (("--bits", "16"), "not quantised"),
    ],
)
def test_the_card_does_not_claim_tuning_where_there_was_none(
    loaded_command: CommandServer, tiny_source: Path, tmp_path: Path, options: tuple[str, ...], sentence: str
) -> None:
    succeeded(loaded_command("convert", tiny_source, tmp_path / "out", "--format", "onnx", *options))
    card = (tmp_path / "out" / "README.md").read_text(encoding="utf-8")
    assert "SignRound" not in card
    assert sentence in card


def test_the_card_keeps_the_sources_licence(loaded_command: CommandServer, tmp_path: Path) -> None:
    source = write_checkpoint(tmp_path / "model")
    (source / "README.md").write_text("---\nlanguage: en\nlicense: apache-2.0\n---\n# A model\n")
    options = ("--recipe", "rtn", "--group-size", "32", "--format", "onnx")
    succeeded(loaded_command("convert", source, tmp_path / "out", *options))
    assert "\nlicense: apache-2.0\n" in (tmp_path / "out" / "README.md").read_text(encoding="utf-8")


def test_the_source_is_named_by_its_folder(loaded_command: CommandServer, tmp_path: Path) -> None:
    source = write_checkpoint(tmp_path / "model")
    for number, (name, cwd) in enumerate(
        ((".", source), ("../model", source), (source, tmp_path), ("model/", tmp_path))
    ):
        out = tmp_path / f"out{number}"
        options = ("--recipe", "rtn", "--group-size", "32", "--format", "onnx")
        succeeded(loaded_command("convert", name, out, *options, cwd=cwd))
        assert read_manifest(out).source_name == "model"
