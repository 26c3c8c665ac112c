"""Writes a real Hugging Face checkpoint folder with random weights: config.json, safetensors and a tokenizer."""

from __future__ import annotations

import functools
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers

from ovround.models import from_config, smallest_configs

VOCAB_SIZE = 320  # 256 bytes, the special tokens and the trained merges
SPECIAL_TOKENS = ["<unk>", "<s>", "</s>", "<|user|>", "<|assistant|>"]
TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}<|{{ message.role }}|>{{ message.content }}{{ eos_token }}{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
STORY = "once upon a time there was a little cat that sat on the mat and the end of the story was the end of the cat "
Arrays = dict[str, NDArray[np.float32]]


def tiny_config(**changes: Any) -> dict[str, Any]:
    """The smallest Llama config.json that uses every feature of the family, with the tokenizer's 320 tokens."""
    base = {"vocab_size": VOCAB_SIZE, "bos_token_id": 1, "eos_token_id": 2, "architectures": ["LlamaForCausalLM"]}
    return {**smallest_configs("llama")[0], **base, **changes}


def random_weights(config: Mapping[str, Any], seed: int = 0, scale: float = 0.2) -> Arrays:
    """All tensors of a model with `config`, normal with standard deviation `scale`; norms are around 1."""
    decoder, rng = from_config(config), np.random.default_rng(seed)
    parts = (None, *range(decoder.config.num_hidden_layers))
    shapes = {name: shape for part in parts for name, shape in decoder.tensors(part).items()}
    return {
        name: (rng.standard_normal(shape) * scale + ("norm" in name)).astype(np.float32)
        for name, shape in shapes.items()
    }


def write_checkpoint(
    folder: Path,
    config: Mapping[str, Any] | None = None,
    weights: Arrays | None = None,
    *,
    dtype: str = "F32",
    shards: int = 1,
    seed: int = 0,
) -> Path:
    """Write `folder` with `weights` (default: random) in `dtype`, in one file or in `shards` files with an index."""
    config = tiny_config() if config is None else config
    weights = random_weights(config, seed) if weights is None else weights
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config))
    generation = {"bos_token_id": 1, "eos_token_id": 2}
    (folder / "generation_config.json").write_text(json.dumps(generation))
    write_tokenizer(folder)
    tensors = {name: (dtype, values.shape, in_bytes(values, dtype)) for name, values in weights.items()}
    if shards == 1:
        write_safetensors(folder / "model.safetensors", tensors)
        return folder
    names, weight_map = list(tensors), {}
    for shard in range(shards):
        file = f"model-{shard + 1:05d}-of-{shards:05d}.safetensors"
        part = names[shard::shards]
        write_safetensors(folder / file, {name: tensors[name] for name in part})
        weight_map |= dict.fromkeys(part, file)
    index = {"metadata": {"total_size": sum(len(data) for *_, data in tensors.values())}, "weight_map": weight_map}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    return folder


def in_bytes(values: NDArray[np.float32], dtype: str) -> bytes:
    """`values` as little-endian F32, F16 or BF16 (truncated, not rounded)."""
    if dtype == "BF16":
        return (values.view(np.uint32) >> 16).astype("<u2").tobytes()
    return values.astype({"F32": "<f4", "F16": "<f2"}[dtype]).tobytes()


def write_safetensors(path: Path, tensors: Mapping[str, tuple[str, tuple[int, ...], bytes]]) -> None:
    """Write a safetensors file: 8 bytes of header length, the header as JSON, the data."""
    header: dict[str, Any] = {}
    offset = 0
    for name, (dtype, shape, data) in tensors.items():
        header[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [offset, offset + len(data)]}
        offset += len(data)
    write_raw_safetensors(path, json.dumps(header), b"".join(data for *_, data in tensors.values()))


def write_raw_safetensors(path: Path, header: str, data: bytes, length: int | None = None) -> None:
    """Write any header and any data; `length` is the header length in the first 8 bytes (default: the true one)."""
    encoded = header.encode()
    path.write_bytes((len(encoded) if length is None else length).to_bytes(8, "little") + encoded + data)


def write_tokenizer(folder: Path, *, template: bool = True) -> None:
    """Write tokenizer.json with `VOCAB_SIZE` tokens, and tokenizer_config.json with a chat template or without."""
    names = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
    settings = {"tokenizer_class": "PreTrainedTokenizerFast", **names} | (
        {"chat_template": TEMPLATE} if template else {}
    )
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    (folder / "tokenizer.json").write_text(tokenizer_json())


@functools.cache
def tokenizer_json() -> str:
    """A byte-level BPE tokenizer that prepends <s>."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.train_from_iterator(
        [STORY * 8],
        trainers.BpeTrainer(
            vocab_size=VOCAB_SIZE,
            special_tokens=SPECIAL_TOKENS,
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        ),
    )
    tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    text: str = tokenizer.to_str()
    return text
