"""GGUF files alone, one of each tensor type, as inputs of `strangers.py`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import torch
from stranger_inputs import VOCABULARY, Builder, Stranger, is_linear, llama, tensors, with_weights

_GGUF_NAMES = {
    "model.embed_tokens": "token_embd", "model.norm": "output_norm", "lm_head": "output", "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm", "self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v", "self_attn.o_proj": "attn_output", "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up", "mlp.down_proj": "ffn_down",
}  # fmt: skip
FLOATS = ("F32", "F16", "BF16")
KEPT = ("Q8_0", "Q4_0", "Q5_0", "Q2_K", "Q3_K", "IQ4_NL", "TQ2_0")  # a grid holds these numbers
_QUANTISABLE = (*FLOATS, "Q8_0", "Q4_0", "Q4_1", "Q5_0", "Q5_1")
_RANDOM_BLOCKS = ("Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K", "IQ4_NL", "IQ4_XS", "TQ2_0")


def gguf_name(name: str) -> str:
    """The name of a Llama tensor in a GGUF file."""
    stem = name.removesuffix(".weight")
    if not stem.startswith("model.layers."):
        return f"{_GGUF_NAMES[stem]}.weight"
    layer, _, rest = stem.removeprefix("model.layers.").partition(".")
    return f"blk.{layer}.{_GGUF_NAMES[rest]}.weight"


def blocks(kind: str, shape: tuple[int, int]) -> np.ndarray[Any, Any]:
    """Random blocks of a type that the gguf package reads but does not write; the scale of each is small."""
    size, width = gguf.GGML_QUANT_SIZES[gguf.GGMLQuantizationType[kind]]
    data = np.random.default_rng(0).integers(0, 256, (shape[0] * shape[1] // size, width), np.uint8)
    half = np.frombuffer(np.float16(2e-4).tobytes(), np.uint8)
    places = {"Q2_K": (80, 82), "Q3_K": (108,), "Q4_K": (0, 2), "Q5_K": (0, 2), "Q6_K": (208,), "TQ2_0": (64,)}
    for place in places.get(kind, (0,)):
        data[:, place : place + 2] = half
    return data.reshape(shape[0], -1)


def _gguf(kind: str) -> Builder:
    def build(folder: Path) -> Stranger:
        source = folder / "source"
        llama(source, hidden_size=256, intermediate_size=512, num_hidden_layers=1)
        values, path = tensors(source), folder / f"model-{kind}.gguf"
        writer = gguf.GGUFWriter(path, "llama")
        for add, value in (
            (writer.add_block_count, 1), (writer.add_context_length, 256), (writer.add_embedding_length, 256),
            (writer.add_feed_forward_length, 512), (writer.add_head_count, 4), (writer.add_head_count_kv, 2),
            (writer.add_layer_norm_rms_eps, 1e-6), (writer.add_rope_freq_base, 10000.0), (writer.add_vocab_size, VOCABULARY),
        ):  # fmt: skip
            add(value)
        made = json.loads((source / "tokenizer.json").read_text())["model"]
        writer.add_tokenizer_model("gpt2")
        writer.add_tokenizer_pre("gpt-2")
        writer.add_token_list([token for token, _ in sorted(made["vocab"].items(), key=lambda item: item[1])])
        writer.add_token_types([3] * 3 + [1] * (VOCABULARY - 3))
        writer.add_token_merges([merge if isinstance(merge, str) else " ".join(merge) for merge in made["merges"]])
        writer.add_bos_token_id(1)
        writer.add_eos_token_id(2)
        quant = gguf.GGMLQuantizationType[kind]
        for name, value in list(values.items()):
            array = value.numpy()
            heads = 4 if "q_proj" in name else 2 if "k_proj" in name else 0
            if heads:
                array = array.reshape(heads, 2, -1, array.shape[1]).swapaxes(1, 2).reshape(array.shape)
            if array.ndim == 1 or (kind in _RANDOM_BLOCKS and not is_linear(name)):
                writer.add_tensor(gguf_name(name), array.astype(np.float32))
                continue
            data = blocks(kind, array.shape) if kind in _RANDOM_BLOCKS else gguf.quants.quantize(array, quant)
            writer.add_tensor(gguf_name(name), data, raw_dtype=quant)
            back = gguf.quants.dequantize(data, quant).reshape(array.shape)
            if heads:
                back = back.reshape(heads, -1, 2, array.shape[1]).swapaxes(1, 2).reshape(array.shape)
            values[name] = torch.from_numpy(np.ascontiguousarray(back))
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
        if kind in FLOATS:
            return Stranger(str(path), with_weights(source, values))
        return Stranger(str(path), with_weights(source, values), (), 1e-3 if kind in KEPT else None)

    return build


GGUF_FILES: dict[str, Builder] = {f"GGUF alone, {kind}": _gguf(kind) for kind in (*_QUANTISABLE, *_RANDOM_BLOCKS)}
