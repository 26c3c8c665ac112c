"""Quantised checkpoints are scored as they lie, and say what the engines say that they were converted for."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from command_server import CommandServer
from quantised_folder import MODULE, quantised_folder, rewrite

from ovround.artifact.manifest import CHECKPOINT_FORMATS, CODEBOOK_FORMATS
from ovround.conversion.convert import convert
from ovround.errors import OvroundError
from ovround.measure.evaluation import evaluate_model
from ovround.options.convert_options import ConvertOptions

TOLERANCE = 1e-5  # of a perplexity: float32 sums in another order


def perplexity(model: Path, text: Path) -> float:
    (result,) = evaluate_model(str(model), [text], context=32)
    return result.perplexity


@pytest.mark.parametrize("name", [name for name in CHECKPOINT_FORMATS if name not in CODEBOOK_FORMATS])
def test_every_format_that_is_written(tmp_path: Path, tiny_source: Path, text_file: Path, name: str) -> None:
    options = ConvertOptions(formats=(name, "onnx"), group_size=32, sym=False, recipe="rtn")
    written, engine = convert(tiny_source, tmp_path / "out", options).folders
    computed = perplexity(written, text_file)
    assert computed == pytest.approx(perplexity(engine, text_file), rel=TOLERANCE)
    assert computed != pytest.approx(perplexity(tiny_source, text_file), rel=100 * TOLERANCE)


def test_activation_order(tmp_path: Path, text_file: Path) -> None:
    source = quantised_folder(tmp_path, {}, np.random.default_rng(3).permutation(64).astype(np.int32))
    (engine,) = convert(source, tmp_path / "onnx", ConvertOptions(formats=("onnx",))).folders
    assert perplexity(source, text_file) == pytest.approx(perplexity(engine, text_file), rel=TOLERANCE)


def test_what_does_not_fit_is_refused(tmp_path: Path, text_file: Path) -> None:
    folder = quantised_folder(tmp_path, {})
    rewrite(folder, f"{MODULE}.qzeros", lambda data: None)
    with pytest.raises(OvroundError, match=r"has no tensor `.*up_proj\.qzeros`, which gptq calls for"):
        perplexity(folder, text_file)


def test_the_command(tmp_path: Path, loaded_command: CommandServer, text_file: Path) -> None:
    folder = quantised_folder(tmp_path, {})
    result = loaded_command("eval", folder, "--text", text_file, "--reference", tmp_path / "source", "--context", 32)
    assert result.status == 0, result.stderr
