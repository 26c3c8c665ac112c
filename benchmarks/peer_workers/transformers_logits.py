"""Computes logits of quantised folders that transformers' `from_pretrained` loads with the installed library.

Runs in the environments of `gptqmodel` and `compressed-tensors`.
"""

from __future__ import annotations

import json
import os
import sys
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

os.environ["TORCHDYNAMO_DISABLE"] = "1"  # GPTQModel would compile its plain kernel for minutes

import numpy as np
import torch
import transformers
from safetensors.torch import load_file

# GPTQModel's plain kernels: the others compile for minutes at the first use, and compute in half precision
BACKENDS = {"gptq": "torch", "awq": "torch_awq"}


@dataclass(frozen=True, slots=True)
class Task:
    """The worker's argument: `folders` maps each folder to a file for its logits, float32 `[B, T, V]`.

    `tokens_file` holds the token ids, int64 `[B, T]`.
    """

    tokens_file: str
    folders: dict[str, str]
    alone: bool = False


def decompressed(folder: str) -> torch.nn.Module:
    """The model with each packed weight decompressed by compressed-tensors' own compressor."""
    from compressed_tensors.compressors.pack_quantized.base import PackedQuantizationCompressor
    from compressed_tensors.quantization import QuantizationConfig

    config = transformers.AutoConfig.from_pretrained(folder)
    groups = QuantizationConfig.model_validate(config.quantization_config).config_groups
    (scheme,) = groups.values()
    del config.quantization_config
    model = transformers.AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval()
    stored: dict[str, dict[str, torch.Tensor]] = {}
    for file in sorted(Path(folder).glob("*.safetensors")):
        for name, tensor in load_file(file).items():
            stored.setdefault(name.rpartition(".")[0], {})[name.rpartition(".")[2]] = tensor
    for module, parts in stored.items():
        if "weight_packed" in parts:
            parts["weight_scale"] = parts["weight_scale"].float()
            parts["weight"] = PackedQuantizationCompressor.decompress(parts, scheme)["weight"]
        model.get_submodule(module).weight.data = parts["weight"].float()
    model.tie_weights()
    return model


def logits(folder: str, tokens: torch.Tensor, *, alone: bool) -> tuple[np.ndarray, str]:
    """Logits, and the most common class of layers with packed weights; `alone` uses the library without transformers' loader."""
    if alone:
        with torch.no_grad():
            return decompressed(folder)(tokens, use_cache=False).logits.numpy(), "decompressed"
    config = transformers.AutoConfig.from_pretrained(folder)
    backend = BACKENDS.get(config.quantization_config["quant_method"])
    if backend is not None:
        config.quantization_config["backend"] = backend
    model = transformers.AutoModelForCausalLM.from_pretrained(
        folder, config=config, dtype=torch.float32, device_map="cpu"
    )
    model.eval()
    marks = ("qweight", "weight_packed", "weight_scale")
    kinds = Counter(type(module).__name__ for module in model.modules() if any(hasattr(module, mark) for mark in marks))
    with torch.no_grad():
        computed = model(tokens, use_cache=False).logits.float().numpy()
    return computed, kinds.most_common(1)[0][0] if kinds else "none"


def main(task: Task) -> dict[str, object]:
    tokens = torch.from_numpy(np.load(task.tokens_file).astype(np.int64))
    failed: dict[str, str] = {}
    layers: dict[str, str] = {}
    for folder, file in task.folders.items():
        try:
            computed, layers[folder] = logits(folder, tokens, alone=task.alone)
            np.save(file, computed)
        except Exception as error:  # noqa: BLE001  a peer's failure is part of the answer
            failed[folder] = f"{type(error).__name__}: {error}"[:300]
    return {"failed": failed, "layers": layers, "transformers": transformers.__version__}


if __name__ == "__main__":
    print(json.dumps(main(Task(**json.loads(sys.argv[1])))))
