"""Random models of every family, built by transformers from a configuration and computed by it."""

from __future__ import annotations

import copy
import inspect
import itertools
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from checkpoint_writer import VOCAB_SIZE, write_tokenizer
from numpy.typing import NDArray
from transformers import CONFIG_MAPPING, AutoConfig, AutoModelForCausalLM, AutoModelForImageTextToText

from ovround.models import families, smallest_configs

CONFIGS = {
    f"{family}-{number}": {**config, "vocab_size": VOCAB_SIZE, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
    for family in families()
    for number, config in enumerate(smallest_configs(family))
}
ONLY_MULTIMODAL = {"muse_glimmer_text": "muse_glimmer"}
_SMALL_TOWER = {"hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
FIRST = [name for name in CONFIGS if name.endswith("-0")]
Ids = NDArray[np.int64]
Logits = NDArray[np.float32]


def write_random_model(
    folder: Path, config: Mapping[str, Any], dtype: torch.dtype = torch.float32, *, template: bool = True
) -> Any:
    """Write a checkpoint with transformers, but with `config` unchanged; returns the model in float32 with the same values.

    Weights are normal with standard deviation 0.2, so that attention is not uniform; norms are around 1. Without a chat
    `template` a conversion starts no process that renders it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config))
    known = AutoConfig.from_pretrained(folder)
    generator = torch.Generator().manual_seed(0)
    model = _with_head(known).eval()
    less_one = config["model_type"] in ("gemma", "gemma2", "gemma3_text")
    # those of no axis are constants of a formula, as in xIELU
    buffers = [(name, part) for name, part in model.named_buffers() if part.dim() and name in model.state_dict()]
    with torch.no_grad():
        for name, parameter in [*model.named_parameters(), *buffers]:
            is_gain = parameter.dim() == 1 and name.endswith(("weight", "layer_scalar")) and not less_one
            parameter.copy_((torch.randn(parameter.shape, generator=generator) * 0.2 + is_gain).to(dtype))
    saved = copy.deepcopy(model).to(dtype)  # a copy, so that the model's buffers stay in float32
    text = {name: tensor for name, tensor in saved.state_dict().items() if ".vision_" not in name}
    saved.save_pretrained(folder, state_dict=text)
    (folder / "config.json").write_text(json.dumps(config))
    write_tokenizer(folder, template=template)
    return model


def _with_head(config: Any) -> Any:
    """The random model with a head; where the text model has none of its own, that of the multimodal one, with small towers."""
    config._attn_implementation = "eager"
    if type(config) in AutoModelForCausalLM._model_mapping:
        return AutoModelForCausalLM.from_config(config)
    if config.model_type not in ONLY_MULTIMODAL:  # Mistral 4's own class stands among the multimodal ones
        return AutoModelForImageTextToText.from_config(config)
    whole = CONFIG_MAPPING[ONLY_MULTIMODAL[config.model_type]](
        text_config=config, vision_config=_SMALL_TOWER, tie_word_embeddings=config.tie_word_embeddings
    )
    whole._attn_implementation = whole.text_config._attn_implementation = "eager"
    return AutoModelForImageTextToText.from_config(whole)


@torch.no_grad()
def logits_of(model: Any, ids: Ids) -> Logits:
    """Logits `[B, T, V]` of one forward pass."""
    values: Logits = model(torch.from_numpy(ids), use_cache=False).logits.numpy()
    return values


@torch.no_grad()
def logits_by_steps(model: Any, ids: Ids, prefill: int) -> Logits:
    """Logits `[B, 1 + steps, V]` after the first `prefill` tokens and after each later token, computed with the cache."""
    known = inspect.signature(model.forward).parameters
    name = "cache" if "cache" in known else "past_key_values"  # transformers renamed the argument in 5.24
    cache, logits = None, []
    cuts = [0, *range(prefill, ids.shape[1] + 1)]
    for start, end in itertools.pairwise(cuts):
        # As `generate` gives them: Bamba does not count them itself.
        positions = {"position_ids": torch.arange(start, end)[None]} if "position_ids" in known else {}
        result = model(torch.from_numpy(ids[:, start:end]), use_cache=True, **{name: cache}, **positions)
        cache = result[name]
        logits.append(result.logits[:, -1].numpy())
    return np.stack(logits, axis=1)


def relative_rms(actual: Logits, expected: Logits) -> float:
    difference = np.sqrt(np.mean((actual.astype(np.float64) - expected) ** 2))
    return float(difference / np.sqrt(np.mean(expected.astype(np.float64) ** 2)))


def ragged(ids: Ids, lengths: Sequence[int]) -> list[list[int]]:
    """Rows of unequal length, cut from `ids` `[B, T]`."""
    return [row[:length].tolist() for row, length in zip(ids, lengths, strict=True)]
