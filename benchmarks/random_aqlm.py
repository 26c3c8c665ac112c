"""Writes an AQLM checkpoint with random codes in the shape of a float one, for measurements of speed and memory.

Every linear layer of the blocks becomes codebooks whose values are as large as the layer's own; other tensors are copied.

    python benchmarks/random_llama.py MODEL
    python benchmarks/random_aqlm.py MODEL OUT [--codebooks 2x8:8]
"""

from __future__ import annotations

import argparse
import json
import shutil
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file

from ovround.tensors.scheme import Codebooks


def coded(
    weight: torch.Tensor, books: int, bits: int, size: int, generator: torch.Generator
) -> dict[str, torch.Tensor]:
    """The parts of a random weight with the shape `[N, K]` and the standard deviation of `weight`."""
    rows, columns = weight.shape
    kind = torch.int8 if bits <= 8 else torch.int16
    codes = torch.randint(0, 1 << bits, (rows, columns // size, books), generator=generator)
    scale = float(weight.float().std()) / books**0.5
    return {
        "codes": codes.to(kind),  # values from 2^(bits - 1) on wrap around, as in the format
        "codebooks": torch.randn((books, 1 << bits, 1, size), generator=generator).half(),
        "scales": torch.full((rows, 1, 1, 1), scale).half(),
    }


def write(model: Path, out: Path, books: int, bits: int, size: int, seed: int) -> None:
    """Write `out` shard by shard; raises FileExistsError, and ValueError for a layer that `size` does not divide."""
    out.mkdir(parents=True)
    generator = torch.Generator().manual_seed(seed)
    weight_map: dict[str, str] = {}
    kept: list[str] = []
    for path in sorted(model.glob("*.safetensors")):
        tensors: dict[str, torch.Tensor] = {}
        with safe_open(path, "pt") as file:
            for name in file.keys():  # noqa: SIM118  safe_open is not a mapping
                weight = file.get_tensor(name)
                if ".layers." not in name or weight.dim() != 2:
                    tensors[name] = weight
                    kept += [name] if weight.dim() == 2 else []
                    continue
                if weight.shape[1] % size:
                    raise ValueError(f"{name} has {weight.shape[1]} inputs, no multiple of {size}")
                at = name.removesuffix(".weight")
                tensors |= {
                    f"{at}.{part}": value for part, value in coded(weight, books, bits, size, generator).items()
                }
        save_file(tensors, out / path.name, metadata={"format": "pt"})
        weight_map |= dict.fromkeys(tensors, path.name)
    (out / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
    config = json.loads((model / "config.json").read_text())
    config["quantization_config"] = {
        "quant_method": "aqlm", "in_group_size": size, "out_group_size": 1, "num_codebooks": books,
        "nbits_per_codebook": bits, "linear_weights_not_to_quantize": kept,
    }  # fmt: skip
    (out / "config.json").write_text(json.dumps(config, indent=2))
    for file in (*model.glob("tokenizer*"), *model.glob("special_tokens_map.json")):
        shutil.copyfile(file, out / file.name)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--codebooks", type=Codebooks.parse, default=Codebooks(2, 8, 8), metavar="COUNTxBITS:VECTOR")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    books = options.codebooks
    write(options.model, options.out, books.count, books.bits, books.vector_size, options.seed)
    size = sum(path.stat().st_size for path in options.out.glob("*.safetensors"))
    print(json.dumps({"size_bytes": size}))


if __name__ == "__main__":
    main()
