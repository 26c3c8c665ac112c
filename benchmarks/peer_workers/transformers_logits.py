"""Computes logits of quantised folders as `from_pretrained` of transformers loads them, with whatever library is beside it.

Runs in the environments of `gptqmodel` and `compressed-tensors`.
"""

from __future__ import annotations

import json
import sys
from collections import Counter
from dataclasses import dataclass

import numpy as np
import torch
import transformers


@dataclass(frozen=True, slots=True)
class Task:
    """The worker's argument: each of `folders` is computed on `tokens_file`, int64 `[B, T]`, into its file, float32 `[B, T, V]`."""

    tokens_file: str
    folders: dict[str, str]


def logits(folder: str, tokens: torch.Tensor) -> tuple[np.ndarray, str]:
    """Logits, and the class of most layers that hold packed weights."""
    model = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, device_map="cpu").eval()
    marks = ("qweight", "weight_packed", "weight_scale")
    kinds = Counter(type(one).__name__ for one in model.modules() if any(hasattr(one, mark) for mark in marks))
    with torch.no_grad():
        found = model(tokens, use_cache=False).logits.float().numpy()
    return found, kinds.most_common(1)[0][0] if kinds else "none"


def main(task: Task) -> dict[str, object]:
    tokens = torch.from_numpy(np.load(task.tokens_file).astype(np.int64))
    failed: dict[str, str] = {}
    layers: dict[str, str] = {}
    for folder, file in task.folders.items():
        try:
            computed, layers[folder] = logits(folder, tokens)
            np.save(file, computed)
        except Exception as error:  # noqa: BLE001  what a peer cannot load is part of the answer
            failed[folder] = f"{type(error).__name__}: {error}"[:300]
    return {"failed": failed, "layers": layers, "transformers": transformers.__version__}


if __name__ == "__main__":
    print(json.dumps(main(Task(**json.loads(sys.argv[1])))))
