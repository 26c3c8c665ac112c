"""Exports a Hugging Face folder with auto-round in one of its own formats, and computes logits of such folders.

`logits_file` receives float32 `[B, T, V]`: every quantised layer of the packed folder is de-quantised by auto-round's own
layer (its forward on the identity matrix, in float32), and transformers computes the model with those weights in float32.
Runs in the environment of `auto-round`.
"""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
import transformers
from auto_round import AutoRound, AutoRoundConfig
from auto_round.algorithms.quantization.rtn.config import RTNConfig
from auto_round.algorithms.quantization.sign_round.config import SignRoundConfig
from safetensors import safe_open


@dataclass(frozen=True, slots=True)
class Task:
    """The worker's argument: `exports` are made of `model`, then `folders` are computed on `tokens_file`, int64 `[B, T]`."""

    tokens_file: str
    model: str | None = None
    exports: list[dict[str, object]] = field(default_factory=list)  # out, format, bits, group_size, sym, layers
    folders: dict[str, str] = field(default_factory=dict)  # packed folder -> file for its logits
    iters: int = 0


def export(task: Task, out: str, format: str, bits: int, group_size: int, sym: bool, layers: dict[str, dict]) -> None:
    model = transformers.AutoModelForCausalLM.from_pretrained(task.model, dtype="auto")
    tokenizer = transformers.AutoTokenizer.from_pretrained(task.model)
    tokens = torch.from_numpy(np.load(task.tokens_file).astype(np.int64))
    tuner = AutoRound(
        model,
        tokenizer,
        scheme={"bits": bits, "group_size": group_size, "sym": sym, "data_type": "int", "act_bits": 16},
        alg_configs=SignRoundConfig(iters=task.iters) if task.iters else RTNConfig(disable_opt_rtn=True),
        layer_config={name: dict(override) for name, override in layers.items()},
        dataset=[tokens],
        nsamples=tokens.shape[0],
        seqlen=tokens.shape[1],
        batch_size=tokens.shape[0],
        enable_torch_compile=False,
        device_map="cpu",
    )
    tuner.quantize_and_save(out, format=format)


def dequantised(layer: torch.nn.Module) -> torch.Tensor:
    """float32 `[N, K]` of a packed layer, by its own forward: `layer(I) = W^T`, the bias taken off."""
    bias, layer.bias = layer.bias, None
    layer.scales = layer.scales.float()
    inputs = layer.infeatures if hasattr(layer, "infeatures") else layer.in_features
    weight: torch.Tensor = layer(torch.eye(inputs)).float().T.contiguous()
    layer.bias = bias
    return weight


def logits(folder: str, tokens: torch.Tensor) -> np.ndarray:
    config = transformers.AutoConfig.from_pretrained(folder)
    override = {}
    if config.quantization_config["quant_method"] in ("gptq", "awq"):  # transformers' own loaders want other packages
        override = {"quantization_config": AutoRoundConfig()}
    packed = transformers.AutoModelForCausalLM.from_pretrained(folder, device_map="cpu", **override)
    weights = {}
    for file in sorted(Path(folder).glob("*.safetensors")):
        with safe_open(file, framework="pt") as tensors:
            names = [name for name in tensors.keys() if name.endswith((".weight", ".bias"))]  # noqa: SIM118
            weights |= {name: tensors.get_tensor(name).float() for name in names}
    layers = {name: module for name, module in packed.named_modules() if hasattr(module, "qweight")}
    if not layers:
        raise ValueError("no packed layer was loaded")
    weights |= {f"{name}.weight": dequantised(module) for name, module in layers.items()}
    del config.quantization_config
    model = transformers.AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval()
    missing = model.load_state_dict(weights, strict=False).missing_keys
    if [name for name in missing if not (config.tie_word_embeddings and name == "lm_head.weight")]:
        raise ValueError(f"not in the folder: {missing}")
    with torch.no_grad():
        return model(tokens, use_cache=False).logits.numpy()


def main(task: Task) -> dict[str, object]:
    failed: dict[str, str] = {}
    for one in task.exports:
        try:
            export(task, **one)
        except Exception as error:  # noqa: BLE001  what a peer cannot write is part of the answer
            failed[str(one["out"])] = f"{type(error).__name__}: {error}"[:300]
    tokens = torch.from_numpy(np.load(task.tokens_file).astype(np.int64))
    for folder, file in task.folders.items():
        try:
            np.save(file, logits(folder, tokens))
        except Exception as error:  # noqa: BLE001  as above
            failed[folder] = f"{type(error).__name__}: {error}"[:300]
    exported = [str(one["out"]) for one in task.exports if Path(str(one["out"])).is_dir()]
    return {"failed": failed, "exported": exported, "transformers": transformers.__version__}


if __name__ == "__main__":
    print(json.dumps(main(Task(**json.loads(sys.argv[1])))))
