"""What blocks leave for later ones in one step: on the engines over chunks and rewinds, and carried by the calibration."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from converted_weights import weight_offset
from random_model import CONFIGS, logits_of, relative_rms, write_random_model

from ovround.artifact.manifest import ENGINE_FORMATS
from ovround.conversion.convert import convert
from ovround.models import from_config
from ovround.models.torch_ops import TorchOps
from ovround.options.convert_options import ConvertOptions
from ovround.quant.calibration.calibration_activations import CalibrationActivations
from ovround.quant.calibration.samples import Calibration
from ovround.runtime.engines import open_engine

TOLERANCE = 2e-5  # as in test_families
IDS = np.random.default_rng(5).integers(3, 320, (1, 40))
CONFIG = CONFIGS["gemma4_text-0"]


@pytest.fixture(scope="module")
def case(tmp_path_factory: pytest.TempPathFactory) -> tuple[np.ndarray, dict[str, Path]]:
    """transformers' logits of `IDS`, and a folder a format."""
    folder = tmp_path_factory.mktemp("shared")
    model = write_random_model(folder / "model", CONFIG)
    conversion = convert(folder / "model", folder / "out", ConvertOptions(formats=ENGINE_FORMATS, bits=16))
    return logits_of(model, IDS), dict(zip(ENGINE_FORMATS, conversion.folders, strict=True))


@pytest.mark.parametrize("format_name", ENGINE_FORMATS)
def test_chunks_and_rewinds(case: tuple[np.ndarray, dict[str, Path]], format_name: str) -> None:
    """A layer without a cache of its own sees what is left of the other's, beyond its window too."""
    expected, folders = case
    row = IDS[0].tolist()
    engine = open_engine(folders[format_name], exact=True, threads=1)
    engine.prefill([row[:9]])
    assert relative_rms(engine.extend([row[9:30]]), expected[:, 9:30]) <= TOLERANCE
    engine.extend([[7, 8, 9]])
    engine.rewind([14])  # in between nothing may count as a token of a window
    assert relative_rms(engine.extend([row[14:36]]), expected[:, 14:36]) <= TOLERANCE
    assert relative_rms(engine.decode([row[36]]), expected[:, 36]) <= TOLERANCE
    engine.close()


@pytest.mark.parametrize("format_name", ENGINE_FORMATS)
def test_one_wrong_bit_of_a_blocks_own_table_is_seen(
    case: tuple[np.ndarray, dict[str, Path]], format_name: str
) -> None:
    """The sign of the first value that token 3 of the text looks up in the last block, with none after it to hide it."""
    expected, folders = case
    name = "model.layers.2.per_layer_input.embed_tokens.weight"
    data, offset = weight_offset(folders[format_name], name)
    place = offset + 4 * CONFIG["hidden_size_per_layer_input"] * int(IDS[0, 3]) + 3
    content = bytearray(data.read_bytes())
    content[place] ^= 0x80
    data.write_bytes(content)
    engine = open_engine(folders[format_name], exact=True, threads=1, verify=False)
    logits = engine.logits(IDS)
    engine.close()
    assert relative_rms(logits[:, 3], expected[:, 3]) > 2 * TOLERANCE
    assert relative_rms(logits[:, :3], expected[:, :3]) <= TOLERANCE
    content[place] ^= 0x80
    data.write_bytes(content)


@pytest.mark.parametrize("mapped", [False, True], ids=["in memory", "in files"])
@pytest.mark.parametrize("name", ["gemma4_text-0", "gemma3n_text-0"])
def test_blocks_one_by_one_are_the_whole_model(tmp_path: Path, name: str, mapped: bool) -> None:
    """Several batches, tuning samples and held-out ones; afterwards nothing is kept, and no file is left."""
    decoder, generator = from_config(CONFIGS[name]), torch.Generator().manual_seed(0)
    weights = {
        key: torch.randn(shape, generator=generator) * 0.2 + (len(shape) == 1)
        for key, shape in decoder.every_tensor().items()
    }
    ids = np.random.default_rng(2).integers(0, 320, (5, 16))
    activations = CalibrationActivations(decoder, Calibration(ids, 1), 2, tmp_path if mapped else None)
    states = activations.full_precision
    activations.embed(states, weights)
    for layer in range(decoder.config.num_hidden_layers):
        names = decoder.tensors(layer)
        activations.advance(states, {key: weights[key] for key in names}, layer)
    with torch.no_grad():
        logits = decoder.head(TorchOps(weights), states[:])
        expected = decoder.logits(TorchOps(weights), torch.from_numpy(ids))
    torch.testing.assert_close(logits, expected, rtol=1e-4, atol=1e-4 * float(expected.abs().max()))
    assert not activations.carried(states).names(range(decoder.config.num_hidden_layers))
    activations.close()
    assert not list(tmp_path.iterdir())
