"""Writes a Llama checkpoint as GGUF and quantises it to Q4_0 with llama.cpp's defaults.

The vocabulary is invented, because a benchmark needs only token ids. Runs in the environment of `llama-cpp`.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import gguf
import llama_cpp
import numpy as np

NAMES = {
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}
OUTSIDE = {"model.embed_tokens": "token_embd", "model.norm": "output_norm", "lm_head": "output"}
TYPES = {"BF16": np.uint16, "F16": np.float16, "F32": np.float32}


def tensors(folder: Path):
    """Name and float32 values of each tensor."""
    for path in sorted(folder.glob("*.safetensors")):
        with path.open("rb") as file:
            header = json.loads(file.read(int.from_bytes(file.read(8), "little")))
            start = file.tell()
            for name, entry in header.items():
                if name == "__metadata__":
                    continue
                first, end = entry["data_offsets"]
                file.seek(start + first)
                data = np.frombuffer(file.read(end - first), TYPES[entry["dtype"]]).reshape(entry["shape"])
                if entry["dtype"] == "BF16":
                    data = (data.astype(np.uint32) << 16).view(np.float32)
                yield name, data.astype(np.float32)


def gguf_name(name: str) -> str:
    base = name.removesuffix(".weight")
    if base in OUTSIDE:
        return f"{OUTSIDE[base]}.weight"
    _, _, layer, module = base.split(".", 3)
    return f"blk.{layer}.{NAMES[module]}.weight"


def in_pairs(values: np.ndarray, heads: int) -> np.ndarray:
    """Reorder the rows of each head for llama.cpp's rotation, which interleaves the halves."""
    rows, columns = values.shape
    return values.reshape(heads, 2, rows // heads // 2, columns).swapaxes(1, 2).reshape(rows, columns)


def write(folder: Path, path: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    writer = gguf.GGUFWriter(path, "llama")
    heads, kv_heads = config["num_attention_heads"], config["num_key_value_heads"]
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(heads)
    writer.add_head_count_kv(kv_heads)
    writer.add_rope_dimension_count(config["hidden_size"] // heads)
    writer.add_rope_freq_base(float(config.get("rope_theta", 10000.0)))
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    writer.add_vocab_size(config["vocab_size"])
    special = ["<unk>", "<s>", "</s>"]
    pieces = [*special, *(f"<0x{byte:02X}>" for byte in range(256))]
    pieces += [f"token{number}" for number in range(config["vocab_size"] - len(pieces))]
    kinds = [gguf.TokenType.UNKNOWN, gguf.TokenType.CONTROL, gguf.TokenType.CONTROL]
    kinds += [gguf.TokenType.BYTE] * 256 + [gguf.TokenType.NORMAL] * (len(pieces) - 259)
    writer.add_tokenizer_model("llama")
    writer.add_token_list(pieces)
    writer.add_token_scores([0.0] * len(pieces))
    writer.add_token_types(kinds)
    writer.add_file_type(gguf.LlamaFileType.MOSTLY_F16)
    for name, values in tensors(folder):
        if name.endswith(("q_proj.weight", "k_proj.weight")):
            values = in_pairs(values, heads if "q_proj" in name else kv_heads)
        writer.add_tensor(gguf_name(name), values if values.ndim == 1 else values.astype(np.float16))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def main(model: str, out: str) -> dict[str, object]:
    path = Path(out)
    float16_path, partial_path = path.with_suffix(".f16"), path.with_suffix(".part")
    write(Path(model), float16_path)
    parameters = llama_cpp.llama_model_quantize_default_params()
    parameters.ftype = llama_cpp.LLAMA_FTYPE_MOSTLY_Q4_0
    status = llama_cpp.llama_model_quantize(str(float16_path).encode(), str(partial_path).encode(), parameters)
    float16_path.unlink()
    if status:
        sys.exit(f"llama_model_quantize gave {status}")
    partial_path.rename(path)
    return {"size_bytes": path.stat().st_size}


if __name__ == "__main__":
    print(json.dumps(main(**json.loads(sys.argv[1]))))
