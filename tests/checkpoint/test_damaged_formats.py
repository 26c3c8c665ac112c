"""Quantised folders that are hostile or contradict themselves: a clear error, and nothing written."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from quantised_folder import MODULE, quantised_folder, rewrite

from ovround.checkpoint import open_source
from ovround.conversion.convert import convert
from ovround.errors import CheckpointError, OvroundError
from ovround.options.convert_options import ConvertOptions


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"checkpoint_format": "marlin"}, "checkpoint_format is `marlin`"),
        ({"bits": 5}, "bits of `model.layers.0.self_attn.q_proj` are 5"),
        ({"bits": "4"}, "bits of"),
        ({"bits": True}, "bits of"),
        ({"bits": 16}, "is packed, yet quantization_config leaves it in float"),
        ({"group_size": 0}, "group_size of"),
        ({"group_size": 16}, r"qzeros` is I32 \[2, 16\]; config.json calls for I32 \[4, 16\]"),
        ({"bits": 8}, r"qweight` is I32 \[8, 128\]; config.json calls for I32 \[16, 128\]"),
        ({"sym": True}, "zero points are not 8, which a symmetric 4-bit scheme has"),
        ({"sym": 1}, "sym of"),
        ({"dynamic": {"+:(": {}}}, "is no regular expression"),
        ({"dynamic": [1]}, "dynamic is"),
        ({"dynamic": {"-:.*up_proj": {}}}, "is packed, yet quantization_config leaves it in float"),
        ({"quant_method": "bitsandbytes"}, "quantised by `bitsandbytes`, yet it has no weight of 4 or 8 bits"),
        ({"quant_method": "fp8"}, "quantised by `fp8`, yet no weight in 4-bit or 8-bit floats was found"),
        ({"quant_method": "../../etc"}, "which cannot be read"),
        ({"quant_method": "packed"}, r"quantised by `packed` \(quant_method\), which cannot be read"),
        ({"quant_method": "auto-round", "packing_format": "auto_round:zip"}, "packing_format is `auto_round:zip`"),
        ({"quant_method": "auto-round", "data_type": "mx_fp"}, "data_type of the model is `mx_fp`"),
        ({"quant_method": "auto-round", "act_bits": 8}, "act_bits of the model are 8"),
        ({"quant_method": "awq", "version": "gemv"}, "AWQ version is `gemv`"),
        ({"quant_method": "awq"}, "qweight` is I32"),
    ],
)  # fmt: skip
def test_a_configuration_that_does_not_fit(tmp_path: Path, settings: dict[str, Any], said: str) -> None:
    folder = quantised_folder(tmp_path, settings)
    with pytest.raises(OvroundError, match=said):
        convert(folder, tmp_path / "out", ConvertOptions(formats=("onnx",)))
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("part", "change", "said"),
    [
        ("qzeros", lambda data: None, "has no tensor `model.layers.0.mlp.up_proj.qzeros`, which gptq calls for"),
        ("qweight", lambda data: data[:-1], "qweight` is I32"),
        ("qweight", lambda data: data.astype(np.int64), "qweight` is I64"),
        (
            "qzeros",
            lambda data: np.full_like(data, -1),
            "zero points are stored as 15, which readers of GPTQ version 1",
        ),
        ("g_idx", lambda data: data * 0, "g_idx goes from 0 to 0; 2 groups of 32 inputs each are needed"),
        ("g_idx", lambda data: data - 1, "g_idx goes from -1 to 0"),
        ("g_idx", lambda data: data[:5], "g_idx` is I32"),
        ("scales", lambda data: data * np.float16(np.nan), "holds NaN or infinity"),
    ],
)
def test_tensors_that_do_not_fit(tmp_path: Path, part: str, change: Any, said: str) -> None:
    folder = quantised_folder(tmp_path, {})
    rewrite(folder, f"{MODULE}.{part}", change)
    with pytest.raises(OvroundError, match=said):
        convert(folder, tmp_path / "out", ConvertOptions(formats=("onnx",)))
    assert not (tmp_path / "out").exists()


def test_an_index_that_points_outside(tmp_path: Path) -> None:
    folder = quantised_folder(tmp_path, {})
    (folder / "model.safetensors").rename(tmp_path / "elsewhere.safetensors")
    index = {"weight_map": {"model.norm.weight": "../elsewhere.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(CheckpointError, match="which is no file of that folder"):
        open_source(folder)


def test_pickled_weights_that_run_code_are_refused(tmp_path: Path) -> None:
    folder = quantised_folder(tmp_path, {})
    (folder / "model.safetensors").unlink()
    (folder / "pytorch_model.bin").write_bytes(b"cos\nsystem\n(S'touch executed'\ntR.")
    with pytest.raises(CheckpointError, match=r"cannot be read as tensors alone: it asks for `os\.system`"):
        open_source(folder)
