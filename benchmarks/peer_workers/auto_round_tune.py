"""Tunes a Hugging Face folder with auto-round on our calibration tokens and writes the tuned weights as plain float32.

The output differs from the input only in the tuned linear layers: each is `scale * (code - zero_point)` in float32, from the
integer codes and float16 scales that auto-round would pack. Its own "fake" format is of no use: it rounds to bfloat16, and
0.16.1 then replaces the tuned weights of a float32 checkpoint with the original ones. Runs in the environment of `auto-round`.
"""

from __future__ import annotations

import json
import resource
import shutil
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from auto_round import AutoRound
from auto_round.algorithms.quantization.rtn.config import RTNConfig
from auto_round.algorithms.quantization.sign_round.config import SignRoundConfig
from safetensors import safe_open
from safetensors.torch import save_file


@dataclass(frozen=True, slots=True)
class Task:
    """The worker's argument. `tokens_file` holds int64 [samples, seqlen], which sets nsamples and seqlen."""

    model: str
    out: str
    tokens_file: str
    bits: int = 4
    group_size: int = 128
    sym: bool = True
    iters: int = 200  # 0: round to nearest, no calibration
    opt_rtn: bool = False  # with iters 0: auto-round's scale search, which needs calibration
    batch_size: int = 8
    seed: int = 42
    layers: dict[str, dict[str, int]] = field(default_factory=dict)  # layer -> {bits, group_size}; bits 16 leaves it
    amp: bool = True  # auto-round's default: weights, activations and block outputs in bfloat16
    torch_compile: bool | None = None  # None: auto-round decides
    packed_out: str | None = None  # also write auto-round's own packed format here


@dataclass(frozen=True, slots=True)
class TunedLinear:
    """A linear layer [N, K] as auto-round returns it: `weight` in its working type, scales and zero points [N, G]."""

    name: str
    weight: torch.Tensor
    scales: torch.Tensor
    zero_points: torch.Tensor
    bits: int
    group_size: int

    @classmethod
    def of(cls, name: str, layer: Any) -> TunedLinear:
        """Read the attributes that auto-round sets on a torch Linear: scale, zp, bits, group_size."""
        in_features, groups = layer.weight.shape[1], layer.scale.shape[1]
        group_size = layer.group_size if 0 < layer.group_size < in_features else in_features
        if groups != -(-in_features // group_size):
            raise ValueError(f"{name}: {groups} groups of {group_size} over {in_features} inputs")
        zero_points = torch.as_tensor(layer.zp, dtype=torch.float32)  # [N, G], or one number for all
        expanded = zero_points.expand(layer.scale.shape)
        return cls(name, layer.weight.detach(), layer.scale, expanded, layer.bits, group_size)

    def dequantised(self) -> torch.Tensor:
        """float32 [N, K] from integer codes and float16 scales; the codes are computed as auto-round's packer does."""
        in_features = self.weight.shape[1]
        scales = self.scales.to(torch.float16).float().repeat_interleave(self.group_size, dim=1)[:, :in_features]
        zero_points = self.zero_points.repeat_interleave(self.group_size, dim=1)[:, :in_features]
        codes = torch.round(self.weight.float() / scales) + zero_points
        low, high = codes.min().item(), codes.max().item()
        if not 0 <= low <= high < 2**self.bits:
            raise ValueError(f"{self.name}: codes {low}..{high} outside 0..{2**self.bits - 1}")
        return scales * (codes - zero_points)


def linear_layers(model: torch.nn.Module) -> dict[str, torch.nn.Linear]:
    """Every linear layer by name, lm_head included."""
    return {name: module for name, module in model.named_modules() if isinstance(module, torch.nn.Linear)}


def original_tensors(folder: Path) -> Iterator[tuple[str, torch.Tensor]]:
    """Every tensor of a checkpoint by name, in the type it is stored in."""
    for file in sorted(folder.glob("*.safetensors")):
        with safe_open(file, framework="pt") as tensors:
            for name in tensors.keys():  # noqa: SIM118 (safe_open is no mapping)
                yield name, tensors.get_tensor(name)


def write_float32(source: Path, out: Path, linears: dict[str, torch.Tensor]) -> int:
    """Write `source` in float32 with these weights replaced; returns the number of unchanged tensors."""
    out.mkdir(parents=True, exist_ok=True)
    tensors = {name: linears.get(name, tensor.float()).contiguous() for name, tensor in original_tensors(source)}
    missing = sorted(linears.keys() - tensors.keys())
    if missing:
        raise ValueError(f"tuned tensors that the checkpoint does not hold: {missing}")
    save_file(tensors, out / "model.safetensors", metadata={"format": "pt"})
    for file in source.iterdir():
        if file.name.startswith(("tokenizer", "special_tokens", "generation_config")):
            shutil.copyfile(file, out / file.name)
    config = json.loads((source / "config.json").read_text())
    config.pop("torch_dtype", None)
    (out / "config.json").write_text(json.dumps({**config, "dtype": "float32"}, indent=2) + "\n")
    return len(tensors) - len(linears)


def calibrated_on(model: Any) -> list[torch.Tensor]:
    """A list to which the model's embedding appends every batch of token ids [B, T] that it sees from now on."""
    seen: list[torch.Tensor] = []
    embedding: torch.nn.Module = model.get_input_embeddings()
    embedding.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].detach().clone()))
    return seen


def main(task: Task) -> dict[str, object]:
    """Tune and write; raises ValueError when auto-round calibrated on other tokens than the given ones."""
    source = Path(task.model)
    tokens = torch.from_numpy(np.load(task.tokens_file).astype(np.int64))
    model = transformers.AutoModelForCausalLM.from_pretrained(source, dtype="auto")
    tokenizer = transformers.AutoTokenizer.from_pretrained(source)
    checkpoint_dtype = str(model.dtype)
    algorithm = SignRoundConfig(iters=task.iters) if task.iters > 0 else RTNConfig(disable_opt_rtn=not task.opt_rtn)
    tuner = AutoRound(
        model,
        tokenizer,
        scheme={"bits": task.bits, "group_size": task.group_size, "sym": task.sym, "data_type": "int", "act_bits": 16},
        alg_configs=algorithm,
        layer_config={name: dict(override) for name, override in task.layers.items()},
        # Batches of ids: only strings pass its tokeniser and its filters.
        dataset=list(torch.split(tokens, task.batch_size)),
        nsamples=tokens.shape[0],
        seqlen=tokens.shape[1],
        batch_size=task.batch_size,
        seed=task.seed,
        amp=task.amp,
        enable_torch_compile=task.torch_compile,
        device_map="cpu",
    )
    seen = calibrated_on(tuner.model)
    started = time.perf_counter()
    tuned, _ = tuner.quantize()
    tuning_s = time.perf_counter() - started
    peak_rss_bytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    calibrated = task.iters > 0 or task.opt_rtn
    first_pass = torch.cat(seen)[: tokens.shape[0]] if seen else torch.empty(0)
    if calibrated and not torch.equal(first_pass, tokens):
        raise ValueError(f"auto-round calibrated on other tokens: {tuple(first_pass.shape)} of {tuple(tokens.shape)}")

    layers = linear_layers(tuned)
    linears: dict[str, torch.Tensor] = {}
    rounding = 0.0
    for name, layer in layers.items():
        if getattr(layer, "scale", None) is None:  # left in 16 bits
            continue
        linear = TunedLinear.of(name, layer)
        weight = linears[f"{name}.weight"] = linear.dequantised()
        rounding = max(rounding, ((weight - linear.weight.float()).abs().max() / weight.abs().max()).item())
    unchanged = write_float32(source, Path(task.out), linears)
    answer = {
        "tuning_s": round(tuning_s, 3),
        "tuning_peak_rss_bytes": peak_rss_bytes,
        "checkpoint_dtype": checkpoint_dtype,
        "working_dtype": str(next(iter(layers.values())).weight.dtype),
        "torch_compile": bool(tuner.enable_torch_compile),
        "token_ids_identical": calibrated,
        "calibration_passes": len(seen) // -(-tokens.shape[0] // task.batch_size),
        "layers_tuned": len(linears),
        "layers_left": sorted(name for name in layers if f"{name}.weight" not in linears),
        "tensors_unchanged": unchanged,
        "working_rounding": rounding,  # largest |codes*scale - working weight| / max|weight|
        "versions": {name: version(name) for name in ("auto-round", "torch", "transformers")},
    }
    if task.packed_out is not None:
        tuner.save_quantized(task.packed_out, format="auto_round", inplace=True)
    return answer


if __name__ == "__main__":
    print(json.dumps(main(Task(**json.loads(sys.argv[1])))))
