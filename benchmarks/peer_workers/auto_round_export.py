"""Exports a Hugging Face folder with auto-round in one of its own formats, and computes logits of such folders.

`logits_file` receives float32 `[B, T, V]`: every quantised layer of the packed folder is de-quantised by auto-round's own
layer (its forward on the identity matrix, in float32), and transformers computes the model with those weights in float32.
Runs in the environment of `auto-round`.
"""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch
import transformers
from auto_round import AutoRound
from auto_round.algorithms.quantization.rtn.config import RTNConfig
from auto_round.algorithms.quantization.sign_round.config import SignRoundConfig
from auto_round.export.export_to_awq.utils import dequantize_gemm
from auto_round_extension.torch import qlinear_torch, qlinear_torch_zp
from safetensors import safe_open
from transformers import AutoRoundConfig


@dataclass(frozen=True, slots=True)
class Task:
    """The worker's argument: it writes `exports` of `model`, then computes `folders` on `tokens_file`, int64 `[B, T]`."""

    tokens_file: str
    model: str | None = None
    exports: list[dict[str, object]] = field(default_factory=list)  # arguments of `export`
    folders: dict[str, str] = field(default_factory=dict)  # packed folder -> file for its logits
    iters: int = 0


def export(task: Task, out: str, export_format: str, scheme: dict[str, object], layers: dict[str, dict]) -> None:
    model = transformers.AutoModelForCausalLM.from_pretrained(task.model, dtype="auto")
    tokenizer = transformers.AutoTokenizer.from_pretrained(task.model)
    tokens = torch.from_numpy(np.load(task.tokens_file).astype(np.int64))
    tuner = AutoRound(
        model,
        tokenizer,
        scheme={"data_type": "int", "act_bits": 16, **scheme},
        alg_configs=SignRoundConfig(iters=task.iters) if task.iters else RTNConfig(disable_opt_rtn=True),
        layer_config={name: dict(override) for name, override in layers.items()},
        dataset=[tokens],
        nsamples=tokens.shape[0],
        seqlen=tokens.shape[1],
        batch_size=tokens.shape[0],
        enable_torch_compile=False,
        device_map="cpu",
    )
    tuner.quantize_and_save(out, format=export_format)


def dequantised(layer: torch.nn.Module) -> torch.Tensor:
    """float32 `[N, K]` of a packed layer by its own forward without the bias: `layer(I) = W^T`."""
    bias, layer.bias = layer.bias, None
    layer.scales = layer.scales.float()
    inputs = layer.infeatures if hasattr(layer, "infeatures") else layer.in_features
    weight: torch.Tensor = layer(torch.eye(inputs)).float().T.contiguous()
    layer.bias = bias
    return weight


def own_layer(tensors: dict[str, torch.Tensor], name: str, packing: str, shape: torch.Size) -> torch.Tensor:
    """float32 `[N, K]` by auto-round's layer class for this packing, for folders that none of its backends loads."""
    parts = {part: tensors[f"{name}.{part}"] for part in ("qweight", "qzeros", "scales")}
    groups = parts["scales"].shape[0]
    if "awq" in packing:
        parts["scales"] = parts["scales"].float()
        return dequantize_gemm(**parts, bits=4, group_size=shape[1] // groups).T.contiguous()
    kind = qlinear_torch if packing in ("auto_round", "auto_round:gptqmodel") else qlinear_torch_zp
    bits = parts["qweight"].shape[0] * 32 // shape[1]
    layer = kind.QuantLinear(bits, shape[1] // groups, shape[1], shape[0], bias=False)
    layer.load_state_dict(parts)
    return dequantised(layer)


def logits(folder: str, tokens: torch.Tensor) -> tuple[np.ndarray, bool]:
    """Logits, and whether `from_pretrained` loaded all quantised layers."""
    config = transformers.AutoConfig.from_pretrained(folder)
    settings = config.quantization_config
    override = {}
    if settings["quant_method"] in ("gptq", "awq"):  # transformers' own loaders need other packages
        override = {"quantization_config": AutoRoundConfig()}
    stored: dict[str, torch.Tensor] = {}
    for file in sorted(Path(folder).glob("*.safetensors")):
        with safe_open(file, framework="pt") as tensors:
            stored |= {name: tensors.get_tensor(name) for name in tensors.keys()}  # noqa: SIM118
    packed = transformers.AutoModelForCausalLM.from_pretrained(folder, device_map="cpu", **override)
    layers = {name: module for name, module in packed.named_modules() if hasattr(module, "qweight")}
    del config.quantization_config
    model = transformers.AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval()
    weights = {name: tensor.float() for name, tensor in stored.items() if name.endswith((".weight", ".bias"))}
    quantised = [name.removesuffix(".qweight") for name in stored if name.endswith(".qweight")]
    packing = settings.get("packing_format") or settings["quant_method"]
    for name in quantised:
        loaded = name in layers
        shape = model.get_submodule(name).weight.shape
        weights[f"{name}.weight"] = dequantised(layers[name]) if loaded else own_layer(stored, name, packing, shape)
    missing = model.load_state_dict(weights, strict=False).missing_keys
    if [name for name in missing if not (config.tie_word_embeddings and name == "lm_head.weight")]:
        raise ValueError(f"not in the folder: {missing}")
    with torch.no_grad():
        return model(tokens, use_cache=False).logits.numpy(), set(quantised) == set(layers)


def main(task: Task) -> dict[str, object]:
    failed: dict[str, str] = {}
    for arguments in task.exports:
        try:
            export(task, **arguments)
        except Exception as error:  # noqa: BLE001  a peer's failure is part of the answer
            failed[str(arguments["out"])] = f"{type(error).__name__}: {error}"[:300]
    tokens = torch.from_numpy(np.load(task.tokens_file).astype(np.int64))
    loaded: dict[str, bool] = {}
    for folder, file in task.folders.items():
        try:
            computed, loads = logits(folder, tokens)
            np.save(file, computed)
            loaded[folder] = loads
        except Exception as error:  # noqa: BLE001  as above
            failed[folder] = f"{type(error).__name__}: {error}"[:300]
    exported = {}
    for arguments in task.exports:  # auto-round writes into a folder below `out`
        config = next(Path(str(arguments["out"])).rglob("config.json"), None)
        if config is not None:
            exported[str(arguments["out"])] = str(config.parent)
    return {"failed": failed, "exported": exported, "loaded": loaded, "auto_round": version("auto-round")}


if __name__ == "__main__":
    print(json.dumps(main(Task(**json.loads(sys.argv[1])))))
