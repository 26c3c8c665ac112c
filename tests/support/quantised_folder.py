"""A tiny GPTQ checkpoint with known codes, scales and zero points, and a function that changes one of its tensors."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from checkpoint_writer import random_weights, tiny_config, write_checkpoint
from numpy.typing import NDArray

from ovround.checkpoint import open_source
from ovround.checkpoint.quantised import QuantisedCheckpoint
from ovround.exporters.checkpoints import CheckpointExporter
from ovround.exporters.checkpoints.shards import ShardWriter
from ovround.models import from_config
from ovround.quant.plan import weight_shapes
from ovround.tensors.float_tensor import FloatTensor
from ovround.tensors.qtensor import QTensor
from ovround.tensors.scheme import QuantScheme

MODULE = "model.layers.0.mlp.up_proj"


def quantised_folder(tmp_path: Path, changes: dict[str, Any], order: NDArray[np.int32] | None = None) -> Path:
    """Write a tiny GPTQ checkpoint; its scales are exact in bfloat16, and `order` is the g_idx of its up_proj layers."""
    config = tiny_config()
    decoder = from_config(config)
    tmp_path.mkdir(exist_ok=True)
    source = write_checkpoint(tmp_path / "source", config)
    folder = tmp_path / "gptq"
    folder.mkdir()
    rng = np.random.default_rng(1)
    linears = [name for layer in range(config["num_hidden_layers"]) for name in decoder.linears(layer)]
    plan: dict[str, QuantScheme | None] = dict.fromkeys(linears, QuantScheme(4, 32, False))
    shapes = weight_shapes(decoder)
    exporter = CheckpointExporter("gptq", folder, decoder, source, plan)
    floats = random_weights(config)
    for name in floats:
        if name.removesuffix(".weight") not in plan:
            exporter.write(name, FloatTensor(floats[name], "float32"))
            continue
        rows, columns = shapes[name]
        tensor = QTensor(
            rng.integers(0, 16, (rows, columns), dtype=np.uint8),
            (
                rng.choice([-1, 1], (rows, columns // 32)) * rng.choice([0.03125, 0.046875], (rows, columns // 32))
            ).astype(np.float16),
            rng.integers(1, 16, (rows, columns // 32), dtype=np.uint8),
            4,
            order if order is not None and "up_proj" in name else None,
        )
        exporter.write(name, tensor)
    exporter.finish()
    exporter.close()
    path = folder / "config.json"
    stated = json.loads(path.read_text())
    stated["quantization_config"] |= changes
    path.write_text(json.dumps(stated))
    return folder


def rewrite(folder: Path, name: str, change: Any, dtype: str | None = None) -> None:
    """Write `model.safetensors` again with one tensor changed, or without it if `change` returns None."""
    source = open_source(folder)
    assert isinstance(source, QuantisedCheckpoint)
    (file,) = source.stored.files
    tensors = {tensor_name: (file.read_array(tensor_name), info.dtype) for tensor_name, info in file.tensors.items()}
    writer = ShardWriter(folder)
    for tensor_name, (data, kind) in tensors.items():
        stated = "bfloat16" if kind == "BF16" else None
        if tensor_name != name:
            writer.write(tensor_name, data, stated)
        elif (changed := change(data)) is not None:
            writer.write(tensor_name, changed, dtype or stated)
    writer.finish()
