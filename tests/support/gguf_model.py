"""Random models in float32 as GGUF files, and their logits by torch."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from checkpoint_writer import Arrays, random_weights, write_tokenizer
from numpy.typing import NDArray

from ovround.exporters.gguf.package import FILE, GgufExporter
from ovround.models import from_config
from ovround.models.torch_ops import TorchOps
from ovround.tensors.float_tensor import FloatTensor


def write_model(folder: Path, config: Mapping[str, Any]) -> tuple[Path, Arrays]:
    """The file of a random model with `config`, and its weights by the decoder's names."""
    source, out = folder / "source", folder / "out"
    source.mkdir()
    out.mkdir()
    (source / "config.json").write_text(json.dumps(config))
    write_tokenizer(source)
    weights = random_weights(config)
    exporter = GgufExporter(out, from_config(config), source, config)
    for name, values in weights.items():
        exporter.write(name, FloatTensor(values, "float32"))
    exporter.finish()
    exporter.close()
    return out / FILE, weights


def logits(config: Mapping[str, Any], weights: Mapping[str, NDArray[np.float32]], ids: Sequence[int]) -> NDArray[Any]:
    """Logits `[T, V]` of the tokens `ids`."""
    tensors = {name: torch.from_numpy(np.ascontiguousarray(values)) for name, values in weights.items()}
    with torch.no_grad():
        found: NDArray[Any] = from_config(config).logits(TorchOps(tensors), torch.tensor([list(ids)]))[0].numpy()
    return found
