"""Small checkpoints of the kinds that people bring, each with the model that transformers computes from it.

`STRANGERS` lists them by name. A builder writes its input into a folder and gives a `Stranger`: what to type after
`ovround convert`, and the reference, a transformers model in float32 that holds the numbers of that input.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForImageTextToText, LlamaConfig

VOCABULARY = 320
TEXT = "once upon a time there was a little cat that sat on the mat, and the end of the story was the end of the cat. "
SIZES: dict[str, Any] = {
    "vocab_size": VOCABULARY, "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "max_position_embeddings": 256, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0,
}  # fmt: skip
LINEAR = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")


@dataclass(frozen=True, slots=True)
class Stranger:
    """One input: the arguments of `ovround convert` before OUT and after it, and what transformers computes from it."""

    model: str
    reference: Callable[[], torch.nn.Module]
    options: tuple[str, ...] = ("--bits", "16")
    bound: float | None = 1e-4
    """Largest difference of a log-probability in float32 arithmetic; None where the weights are rounded on the way."""


Builder = Callable[[Path], Stranger]
STRANGERS: dict[str, Builder] = {}


def stranger(name: str) -> Callable[[Builder], Builder]:
    """Enter a builder in `STRANGERS`."""

    def enter(builder: Builder) -> Builder:
        STRANGERS[name] = builder
        return builder

    return enter


def random(model: torch.nn.Module, scale: float = 0.1) -> torch.nn.Module:
    """`model` with normal weights from a fixed seed, in float32."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.float().parameters():
            if parameter.ndim > 1:
                parameter.copy_(torch.randn(parameter.shape, generator=generator) * scale)
    return model.eval()


def tokenizer(folder: Path, **settings: Any) -> None:
    """A byte-level BPE tokenizer of `VOCABULARY` tokens."""
    made = Tokenizer(models.BPE())
    made.pre_tokenizer, made.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    special = ["<unk>", "<s>", "</s>"]
    made.train_from_iterator(
        [TEXT * 8], trainers.BpeTrainer(vocab_size=VOCABULARY, special_tokens=special, initial_alphabet=alphabet)
    )
    made.save(str(folder / "tokenizer.json"))
    names = {
        "bos_token": "<s>",
        "eos_token": "</s>",
        "unk_token": "<unk>",
        "tokenizer_class": "PreTrainedTokenizerFast",
    }
    (folder / "tokenizer_config.json").write_text(json.dumps({**names, **settings}))


def llama(folder: Path, **changes: Any) -> torch.nn.Module:
    """A random Llama, written to `folder` with its tokenizer."""
    model = random(AutoModelForCausalLM.from_config(LlamaConfig(**{**SIZES, **changes})))
    model.save_pretrained(folder)
    tokenizer(folder)
    return model


def reload(folder: Path) -> Callable[[], torch.nn.Module]:
    """What transformers loads from `folder`."""
    return lambda: AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()


def tensors(folder: Path) -> dict[str, torch.Tensor]:
    return dict(load_file(folder / "model.safetensors"))


def store(folder: Path, values: Mapping[str, torch.Tensor]) -> None:
    save_file(
        {name: value.contiguous() for name, value in values.items()}, folder / "model.safetensors", {"format": "pt"}
    )


def edit(path: Path, **changes: Any) -> None:
    path.write_text(json.dumps({**(json.loads(path.read_text()) if path.is_file() else {}), **changes}))


def with_weights(folder: Path, values: Mapping[str, torch.Tensor]) -> Callable[[], torch.nn.Module]:
    """The model of `folder`'s config.json with `values` in it."""

    def made() -> torch.nn.Module:
        config = AutoConfig.from_pretrained(folder)
        if hasattr(config, "quantization_config"):
            del config.quantization_config
        model = AutoModelForCausalLM.from_config(config).float().eval()
        model.load_state_dict({name: value.float() for name, value in values.items()}, strict=False)
        return model

    return made


def is_linear(name: str) -> bool:
    return any(f".{part}." in name for part in LINEAR)


@stranger("torch .bin")
def torch_bin(folder: Path) -> Stranger:
    model = llama(folder)
    (folder / "model.safetensors").unlink()
    torch.save(model.state_dict(), folder / "pytorch_model.bin")
    return Stranger(str(folder), lambda: model)


@stranger("torch .bin in shards")
def torch_shards(folder: Path) -> Stranger:
    model = llama(folder)
    (folder / "model.safetensors").unlink()
    names = list(model.state_dict())
    files = {name: f"pytorch_model-{1 + (i % 2):05d}-of-00002.bin" for i, name in enumerate(names)}
    for file in sorted(set(files.values())):
        torch.save({name: model.state_dict()[name] for name in names if files[name] == file}, folder / file)
    (folder / "pytorch_model.bin.index.json").write_text(json.dumps({"metadata": {}, "weight_map": files}))
    return Stranger(str(folder), lambda: model)


@stranger("names behind _orig_mod.")
def compiled(folder: Path) -> Stranger:
    model = llama(folder)
    store(folder, {f"_orig_mod.{name}": value for name, value in tensors(folder).items()})
    return Stranger(str(folder), lambda: model)


@stranger("value head, cache scales and float64 buffers left over")
def leftovers(folder: Path) -> Stranger:
    model = llama(folder)
    extra = {
        "v_head.summary.weight": torch.zeros(1, 64), "v_head.summary.bias": torch.zeros(1),
        "model.layers.0.self_attn.k_scale": torch.ones(1), "model.layers.0.self_attn.v_scale": torch.ones(1),
        "model.layers.0.self_attn.rotary_emb.inv_freq": torch.ones(8, dtype=torch.float64),
    }  # fmt: skip
    store(folder, {**tensors(folder), **extra})
    return Stranger(str(folder), lambda: model)


@stranger("rope_scaling added by hand to a new config")
def two_ropes(folder: Path) -> Stranger:
    llama(folder)
    edit(folder / "config.json", rope_scaling={"type": "linear", "factor": 4.0})
    return Stranger(str(folder), reload(folder))


@stranger("more token ids than embedding rows")
def added_token(folder: Path) -> Stranger:
    model = llama(folder)
    data = json.loads((folder / "tokenizer.json").read_text())
    data["added_tokens"].append(
        {"id": VOCABULARY, "content": "[PAD]", "single_word": False, "lstrip": False, "rstrip": False,
         "normalized": False, "special": True}
    )  # fmt: skip
    (folder / "tokenizer.json").write_text(json.dumps(data))
    return Stranger(str(folder), lambda: model)


@stranger("vocab.json and merges.txt")
def two_files(folder: Path) -> Stranger:
    model = llama(folder)
    data = json.loads((folder / "tokenizer.json").read_text())["model"]
    (folder / "tokenizer.json").unlink()
    (folder / "vocab.json").write_text(json.dumps(data["vocab"]))
    merges = (merge if isinstance(merge, str) else " ".join(merge) for merge in data["merges"])
    (folder / "merges.txt").write_text("#version: 0.2\n" + "\n".join(merges) + "\n")
    edit(folder / "tokenizer_config.json", tokenizer_class="GPT2Tokenizer")
    return Stranger(str(folder), lambda: model)


@stranger("hidden size that 128 does not divide, defaults")
def narrow(folder: Path) -> Stranger:
    model = llama(folder, hidden_size=96, intermediate_size=160)
    return Stranger(str(folder), lambda: model, ("--recipe", "rtn"), None)


@stranger("tiny weights, 8 bits")
def tiny_weights(folder: Path) -> Stranger:
    model = llama(folder)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "v_proj" in name:
                parameter.mul_(1e-5)
            if "o_proj" in name:
                parameter.mul_(1e2)
    model.save_pretrained(folder)
    return Stranger(str(folder), lambda: model, ("--recipe", "rtn", "--bits", "8", "--group-size", "32"), None)


@stranger("LoRA adapter alone")
def adapter(folder: Path) -> Stranger:
    from peft import LoraConfig, PeftModel, get_peft_model

    base, out = folder / "base", folder / "adapter"
    llama(base)
    settings = LoraConfig(r=4, lora_alpha=8, target_modules=["q_proj", "v_proj", "down_proj"], task_type="CAUSAL_LM")
    tuned = get_peft_model(AutoModelForCausalLM.from_pretrained(base), settings)
    for name, parameter in tuned.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.05)
    tuned.save_pretrained(out)
    return Stranger(str(out), lambda: PeftModel.from_pretrained(reload(base)(), out).merge_and_unload().float().eval())


def _multimodal(model_type: str, text: Mapping[str, Any], top: Mapping[str, Any]) -> Builder:
    def build(folder: Path) -> Stranger:
        config = AutoConfig.for_model(model_type, text_config={**SIZES, **text}, **top)
        model = random(AutoModelForImageTextToText.from_config(config))
        model.save_pretrained(folder)
        tokenizer(folder)
        return Stranger(str(folder), lambda: model)

    return build


_PIXTRAL = {"model_type": "pixtral", "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1,
            "num_attention_heads": 2, "head_dim": 16, "image_size": 32, "patch_size": 16}  # fmt: skip
_SIGLIP = {"model_type": "siglip_vision_model", "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1,
           "num_attention_heads": 2, "image_size": 32, "patch_size": 16, "vision_use_head": False}  # fmt: skip
_CLIP = {**_SIGLIP, "model_type": "clip_vision_model", "projection_dim": 32}
_QWEN = {
    "depth": 1,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_heads": 2,
    "out_hidden_size": 64,
    "patch_size": 14,
}
_MROPE = {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [2, 3, 3]}
STRANGERS |= {
    "gemma3 with its vision tower": _multimodal(
        "gemma3", {"head_dim": 16, "sliding_window": 8, "query_pre_attn_scalar": 16}, {"vision_config": _SIGLIP}
    ),
    "mistral3": _multimodal("mistral3", {"model_type": "mistral", "head_dim": 16}, {"vision_config": _PIXTRAL}),
    "llava": _multimodal("llava", {"model_type": "llama"}, {"vision_config": _CLIP}),
    "qwen2_5_vl": _multimodal(
        "qwen2_5_vl", {"rope_parameters": _MROPE}, {"vision_config": {**_QWEN, "fullatt_block_indexes": [0]}}
    ),
    "qwen3_vl": _multimodal(
        "qwen3_vl", {"head_dim": 16, "rope_parameters": _MROPE},
        {"vision_config": {**_QWEN, "deepstack_visual_indexes": [0], "num_position_embeddings": 16}},
    ),
}  # fmt: skip


@stranger("FP8 in blocks")
def fp8(folder: Path) -> Stranger:
    llama(folder, hidden_size=128, intermediate_size=256)
    values, stored, block = tensors(folder), {}, 32
    for name, value in list(values.items()):
        if not is_linear(name):
            stored[name] = value
            continue
        rows, columns = value.shape
        tiles = value.reshape(rows // block, block, columns // block, block)
        scale = tiles.abs().amax((1, 3)) / 448.0
        codes = (tiles / scale[:, None, :, None]).reshape(rows, columns).to(torch.float8_e4m3fn)
        stored[name], stored[f"{name}_scale_inv"] = codes, scale
        values[name] = (codes.float().reshape(tiles.shape) * scale[:, None, :, None]).reshape(rows, columns)
    store(folder, stored)
    settings = {
        "quant_method": "fp8",
        "fmt": "e4m3",
        "weight_block_size": [block, block],
        "activation_scheme": "dynamic",
    }
    edit(folder / "config.json", quantization_config=settings)
    return Stranger(str(folder), with_weights(folder, values))


@stranger("compressed-tensors W8A8")
def w8a8(folder: Path) -> Stranger:
    llama(folder)
    values, stored = tensors(folder), {}
    for name, value in list(values.items()):
        if not is_linear(name):
            stored[name] = value
            continue
        scale = (value.abs().amax(1, keepdim=True) / 127.0).half().float()
        codes = (value / scale).round().clamp(-128, 127).to(torch.int8)
        stored[name], stored[f"{name}_scale"] = codes, scale
        values[name] = codes.float() * scale
    store(folder, stored)
    weights = {"num_bits": 8, "type": "int", "strategy": "channel", "symmetric": True, "dynamic": False}
    inputs = {"num_bits": 8, "type": "int", "strategy": "token", "symmetric": True, "dynamic": True}
    settings = {
        "quant_method": "compressed-tensors", "format": "int-quantized", "ignore": ["lm_head"],
        "quantization_status": "compressed",
        "config_groups": {"group_0": {"targets": ["Linear"], "weights": weights, "input_activations": inputs}},
    }  # fmt: skip
    edit(folder / "config.json", quantization_config=settings)
    return Stranger(str(folder), with_weights(folder, values), (), 1e-3)


@stranger("GPTQ under its old file names")
def old_gptq(folder: Path) -> Stranger:
    from ovround import LLM, ConvertOptions, convert

    source, made = folder / "source", folder / "made"
    llama(source)
    options = ConvertOptions(formats=("gptq",), bits=4, group_size=64, recipe="rtn")
    convert(source, made, options)
    plain = convert(made, folder / "plain", ConvertOptions(formats=("onnx",))).folders[0]
    settings = json.loads((made / "config.json").read_text())
    (made / "quantize_config.json").write_text(json.dumps(settings.pop("quantization_config")))
    (made / "config.json").write_text(json.dumps(settings))
    (made / "model.safetensors").rename(made / "gptq_model-4bit-64g.safetensors")
    (made / "ovround.json").unlink()

    class Converted(torch.nn.Module):
        """The same folder under today's names."""

        def forward(self, ids: torch.Tensor) -> Any:
            with LLM(plain, exact=True) as llm:
                return type("Output", (), {"logits": torch.from_numpy(np.array(llm.logits(ids.numpy())))})

    return Stranger(str(made), Converted, (), 1e-4)
