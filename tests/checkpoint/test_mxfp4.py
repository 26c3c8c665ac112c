"""gpt-oss as it is published, its experts in MXFP4: the values that transformers reads, and what contradicts itself."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from random_model import CONFIGS, logits_of, relative_rms, write_random_model
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, Mxfp4Config

from ovround.artifact.manifest import ENGINE_FORMATS
from ovround.checkpoint import open_source
from ovround.checkpoint.formats import mxfp4
from ovround.conversion.convert import convert
from ovround.errors import TensorError, UsageError
from ovround.options.convert_options import ConvertOptions
from ovround.runtime.engines import open_engine

TOLERANCE = 2e-5  # as in test_families
IDS = np.random.default_rng(5).integers(3, 320, (2, 40))


def write_mxfp4(folder: Path, **changes: torch.Tensor) -> Path:
    """A random gpt-oss, its experts' weights random levels and scales; `changes` by the end of a tensor's name."""
    write_random_model(folder, CONFIGS["gpt_oss-0"], torch.bfloat16)
    file, rng = folder / "model.safetensors", np.random.default_rng(2)
    tensors = load_file(file)
    for name in [name for name in tensors if name.endswith("_proj") and "experts" in name]:
        experts, columns, rows = tensors.pop(name).shape
        blocks = rng.integers(0, 256, (experts, rows, columns // 32, 16), dtype=np.uint8)
        scales = rng.integers(121, 125, (experts, rows, columns // 32), dtype=np.uint8)
        tensors |= {f"{name}_blocks": torch.from_numpy(blocks), f"{name}_scales": torch.from_numpy(scales)}
    for end, tensor in changes.items():
        tensors[next(name for name in tensors if name.endswith(end))] = tensor
    save_file(tensors, file, {"format": "pt"})
    stated = {**CONFIGS["gpt_oss-0"], "quantization_config": {"quant_method": "mxfp4"}, "dtype": "bfloat16"}
    (folder / "config.json").write_text(json.dumps(stated))
    return folder


def test_golden_levels() -> None:
    """Nibbles 0 to 15 at 2^0 and the first half of them at 2^-3."""
    blocks = np.array([[[0x10, 0x32, 0x54, 0x76, 0x98, 0xBA, 0xDC, 0xFE] * 2] * 2], np.uint8)
    values = mxfp4._decoded(blocks, np.array([[127, 124]], np.uint8)).float32()
    levels = [0, 0.5, 1, 1.5, 2, 3, 4, 6]
    assert values[:16, 0].tolist() == [*levels, *(-level for level in levels)]
    assert values[32:40, 0].tolist() == [level / 8 for level in levels]


def test_it_is_the_model_that_transformers_reads(tmp_path: Path) -> None:
    folder = write_mxfp4(tmp_path / "model")
    read = {"attn_implementation": "eager", "quantization_config": Mxfp4Config(dequantize=True)}
    model = AutoModelForCausalLM.from_pretrained(folder, **read).eval().float()
    for out in convert(folder, tmp_path / "out", ConvertOptions(formats=ENGINE_FORMATS, bits=16)).folders:
        assert "quantization_config" not in json.loads((out / "config.json").read_text())
        engine = open_engine(out, exact=True, threads=1)
        assert relative_rms(engine.logits(IDS), logits_of(model, IDS)) <= TOLERANCE, out.name
        engine.close()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"gate_up_proj_scales": torch.full((4, 192, 2), 255, dtype=torch.uint8)}, "has a scale of 255; 252 is the largest"),
        ({"gate_up_proj_scales": torch.ones((4, 192, 3), dtype=torch.uint8)}, "do not belong together"),
        ({"gate_up_proj_scales": torch.ones((4, 192, 2))}, "is F32 [4, 192, 2]; mxfp4 calls for U8 of 3 axes"),
        ({"down_proj_blocks": torch.ones((4, 192), dtype=torch.uint8)}, "mxfp4 calls for U8 of 4 axes"),
    ],
)  # fmt: skip
def test_what_contradicts_itself_is_refused(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    folder = write_mxfp4(tmp_path / "model", **changes)
    with pytest.raises(TensorError) as caught:
        convert(folder, tmp_path / "out", ConvertOptions(bits=16))
    assert message in str(caught.value)
    assert not (tmp_path / "out").exists()


def test_a_part_that_is_missing_is_reported(tmp_path: Path) -> None:
    folder = write_mxfp4(tmp_path / "model")
    file = folder / "model.safetensors"
    tensors = load_file(file)
    del tensors["model.layers.0.mlp.experts.down_proj_scales"]
    save_file(tensors, file)
    with pytest.raises(TensorError, match=r"has no tensor `model\.layers\.0\.mlp\.experts\.down_proj`"):
        convert(folder, tmp_path / "out", ConvertOptions(bits=16))


def test_joined_experts_are_no_checkpoint_output(tmp_path: Path) -> None:
    folder = write_mxfp4(tmp_path / "model")
    assert "quantization_config" not in open_source(folder).config
    with pytest.raises(UsageError, match="format gptq: checkpoints of this family hold"):
        convert(folder, tmp_path / "out", ConvertOptions(formats=("gptq",), group_size=32, recipe="rtn"))
