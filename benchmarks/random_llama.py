"""Writes a Llama checkpoint of any shape with random bfloat16 weights, for measurements of speed and memory.

The defaults are TinyLlama's shape, 1.1 billion parameters. Weights are written 8 MiB at a time, so 100 MiB of memory is
enough for any shape. The safetensors library needs a whole shard in memory, so this script writes the simple format itself.

    python benchmarks/random_llama.py OUT --tokenizer FOLDER
    python benchmarks/random_llama.py OUT --hidden-size 64 --intermediate-size 176 --num-hidden-layers 2 ...
"""

from __future__ import annotations

import argparse
import json
import shutil
import tempfile
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, fields
from pathlib import Path

import numpy as np
import numpy.typing as npt

DEMO_MODEL = Path(__file__).resolve().parent.parent / "ovround" / "demo_model"
BLOCK_VALUES = 1 << 22
STANDARD_DEVIATION = 0.02  # transformers' initializer_range for Llama
BFLOAT16_BYTES = 2


@dataclass(frozen=True, slots=True)
class Shape:
    """The sizes of a Llama, with Hugging Face's names."""

    hidden_size: int = 2048
    intermediate_size: int = 5632
    num_hidden_layers: int = 22
    num_attention_heads: int = 32
    num_key_value_heads: int = 4
    vocab_size: int = 32000
    max_position_embeddings: int = 2048
    tie_word_embeddings: bool = False

    def __post_init__(self) -> None:
        if self.hidden_size % self.num_attention_heads or self.num_attention_heads % self.num_key_value_heads:
            raise ValueError(
                f"hidden_size {self.hidden_size} must be a multiple of num_attention_heads {self.num_attention_heads}, "
                f"and that one of num_key_value_heads {self.num_key_value_heads}"
            )

    def tensors(self) -> Iterator[tuple[str, tuple[int, ...]]]:
        """Name and shape ([N, K] for a linear layer) in the order of use."""
        hidden, inner = self.hidden_size, self.intermediate_size
        kv = hidden // self.num_attention_heads * self.num_key_value_heads
        yield "model.embed_tokens.weight", (self.vocab_size, hidden)
        for at in (f"model.layers.{layer}" for layer in range(self.num_hidden_layers)):
            yield f"{at}.input_layernorm.weight", (hidden,)
            yield f"{at}.self_attn.q_proj.weight", (hidden, hidden)
            yield f"{at}.self_attn.k_proj.weight", (kv, hidden)
            yield f"{at}.self_attn.v_proj.weight", (kv, hidden)
            yield f"{at}.self_attn.o_proj.weight", (hidden, hidden)
            yield f"{at}.post_attention_layernorm.weight", (hidden,)
            yield f"{at}.mlp.gate_proj.weight", (inner, hidden)
            yield f"{at}.mlp.up_proj.weight", (inner, hidden)
            yield f"{at}.mlp.down_proj.weight", (hidden, inner)
        yield "model.norm.weight", (hidden,)
        if not self.tie_word_embeddings:
            yield "lm_head.weight", (self.vocab_size, hidden)


def size_bytes(shape: tuple[int, ...]) -> int:
    """Bytes of a bfloat16 tensor."""
    return int(np.prod(shape)) * BFLOAT16_BYTES


def bfloat16(values: npt.NDArray[np.float32]) -> bytes:
    """float32 rounded to nearest even, as little-endian bfloat16."""
    bits = values.view(np.uint32)
    rounded = (bits + (np.uint32(0x7FFF) + ((bits >> np.uint32(16)) & np.uint32(1)))) >> np.uint32(16)
    return rounded.astype("<u2").tobytes()


def weight_blocks(name: str, shape: tuple[int, ...], seed: int) -> Iterator[bytes]:
    """A tensor's bytes in blocks; the seed and the tensor's name determine the random values."""
    if len(shape) == 1:
        yield bfloat16(np.ones(shape, np.float32))
        return
    stream = np.random.Generator(np.random.PCG64([seed, *name.encode()]))
    left = int(np.prod(shape))
    while left:
        count = min(left, BLOCK_VALUES)
        yield bfloat16(stream.standard_normal(count, np.float32) * np.float32(STANDARD_DEVIATION))
        left -= count


def shards(shape: Shape, shard_bytes: int) -> list[dict[str, tuple[int, ...]]]:
    """Tensors in order, split into shards of at most `shard_bytes`; a larger tensor has its own shard."""
    cut: list[dict[str, tuple[int, ...]]] = [{}]
    filled = 0
    for name, dimensions in shape.tensors():
        if cut[-1] and filled + size_bytes(dimensions) > shard_bytes:
            cut.append({})
            filled = 0
        cut[-1][name] = dimensions
        filled += size_bytes(dimensions)
    return cut


def write_shard(path: Path, tensors: dict[str, tuple[int, ...]], seed: int) -> None:
    """One safetensors file: header length (u64), JSON header padded to 8 bytes, then the tensors in order."""
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}
    offset = 0
    for name, shape in tensors.items():
        end = offset + size_bytes(shape)
        header[name] = {"dtype": "BF16", "shape": shape, "data_offsets": [offset, end]}
        offset = end
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for name, shape in tensors.items():
            for block in weight_blocks(name, shape, seed):
                file.write(block)


def tokenizer_size(folder: Path) -> int:
    """The number of token ids that the folder's tokenizer.json can give."""
    tokenizer = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))
    ids = [*tokenizer["model"]["vocab"].values(), *(token["id"] for token in tokenizer.get("added_tokens", ()))]
    return int(max(ids)) + 1


def config(shape: Shape, tokenizer: Path) -> dict[str, object]:
    """config.json, with the token ids that the tokenizer's own model declares."""
    declared = json.loads((tokenizer / "config.json").read_text()) if (tokenizer / "config.json").is_file() else {}
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        **asdict(shape),
        "head_dim": shape.hidden_size // shape.num_attention_heads,
        "hidden_act": "silu",
        "rms_norm_eps": 1e-5,
        "rope_theta": 10000.0,
        "attention_bias": False,
        "mlp_bias": False,
        "initializer_range": STANDARD_DEVIATION,
        "bos_token_id": declared.get("bos_token_id", 1),
        "eos_token_id": declared.get("eos_token_id", 2),
        "torch_dtype": "bfloat16",
    }


def write(out: Path, shape: Shape, tokenizer: Path, *, seed: int = 0, shard_bytes: int = 1_000_000_000) -> int:
    """Write a temporary folder and rename it; returns the bytes of its weights. Raises FileExistsError, ValueError."""
    if out.exists():
        raise FileExistsError(f"{out} exists already")
    if tokenizer_size(tokenizer) > shape.vocab_size:
        raise ValueError(f"the tokenizer knows {tokenizer_size(tokenizer)} tokens, vocab_size is {shape.vocab_size}")
    out.parent.mkdir(parents=True, exist_ok=True)
    beside = Path(tempfile.mkdtemp(prefix=f".{out.name}-", dir=out.parent))
    try:
        cut = shards(shape, shard_bytes)
        weight_map: dict[str, str] = {}
        for number, tensors in enumerate(cut, start=1):
            name = f"model-{number:05d}-of-{len(cut):05d}.safetensors" if len(cut) > 1 else "model.safetensors"
            write_shard(beside / name, tensors, seed)
            weight_map |= dict.fromkeys(tensors, name)
        total = sum(size_bytes(dimensions) for _, dimensions in shape.tensors())
        if len(cut) > 1:
            index = {"metadata": {"total_size": total}, "weight_map": weight_map}
            (beside / "model.safetensors.index.json").write_text(json.dumps(index, indent=2) + "\n")
        (beside / "config.json").write_text(json.dumps(config(shape, tokenizer), indent=2) + "\n")
        for file in (*tokenizer.glob("tokenizer*"), *tokenizer.glob("special_tokens_map.json")):
            shutil.copyfile(file, beside / file.name)
        beside.chmod(0o755)  # mkdtemp gives access to one user only
        beside.rename(out)
    finally:
        shutil.rmtree(beside, ignore_errors=True)
    return total


def main() -> None:
    """The command line: every field of Shape is a flag."""
    parser = argparse.ArgumentParser(description="Write a random-weight Llama checkpoint folder.")
    parser.add_argument("out", type=Path)
    parser.add_argument("--tokenizer", type=Path, default=DEMO_MODEL, help="folder to copy the tokenizer from")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--shard-bytes", type=int, default=1_000_000_000)
    for option in fields(Shape):
        flag = f"--{option.name.replace('_', '-')}"
        if isinstance(option.default, bool):
            parser.add_argument(flag, action="store_true")
        else:
            parser.add_argument(flag, type=int, default=option.default, help=f"default {option.default}")
    options = parser.parse_args()
    shape = Shape(**{option.name: getattr(options, option.name) for option in fields(Shape)})
    started = time.perf_counter()
    written = write(options.out, shape, options.tokenizer, seed=options.seed, shard_bytes=options.shard_bytes)
    parameters = written // BFLOAT16_BYTES
    print(json.dumps({"parameters": parameters, "size_bytes": written, "elapsed_s": time.perf_counter() - started}))


if __name__ == "__main__":
    main()
