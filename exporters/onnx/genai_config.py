"""genai_config.json: what onnxruntime-genai has to know of a model besides its graph."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ovround.checkpoint.text_part import text_config
from ovround.errors import CheckpointError
from ovround.models.calls import attention_specs
from ovround.models.decoder import Decoder
from ovround.models.parts.causal_convolution import TAIL
from ovround.models.parts.gated_delta_net import RECURRENT
from ovround.models.parts.selective_scan import SCAN_STATE

# The families of ovround that onnxruntime-genai 0.18 knows by name; any other graph of the same inputs is a "decoder".
GENAI_TYPES = frozenset({"llama", "lfm2", "lfm2_moe"})
# Our states of fixed size, and what it calls such a one; it finds their layers and shapes in the graph.
FIXED_STATES = {TAIL: "conv", RECURRENT: "recurrent", SCAN_STATE: "recurrent"}


def write_genai_config(source: Path, folder: Path, decoder: Decoder, filename: str) -> None:
    """Write genai_config.json into `folder`; token ids and sampling follow the generation_config.json of `source`.

    Raises CheckpointError when a configuration file of `source` cannot be read.
    """
    model = text_config(_read(source / "config.json"))
    generation = _read(source / "generation_config.json")
    text = json.dumps(genai_config(model, generation, decoder, filename), indent=1) + "\n"
    (folder / "genai_config.json").write_text(text, encoding="utf-8")


def genai_config(model: dict[str, Any], generation: dict[str, Any], decoder: Decoder, filename: str) -> dict[str, Any]:
    """The document, from config.json and generation_config.json; ids that neither names are left out.

    It knows one kind of attention, that of the first block that has any.
    """
    config, attention = decoder.config, next(iter(attention_specs(decoder)), None)
    ids = {name: generation.get(name, model.get(name)) for name in ("bos_token_id", "eos_token_id", "pad_token_id")}
    pad = ids["pad_token_id"]
    if not isinstance(pad, int) or not 0 <= pad < config.vocab_size:  # genai pads batches with it
        eos = ids["eos_token_id"]
        ids["pad_token_id"] = eos[0] if isinstance(eos, list) and eos else eos
    family = model.get("model_type")
    states = {state.name for kept in decoder.states() for state in kept}
    fixed = {name: kind for name, kind in FIXED_STATES.items() if name in states}
    sampling = {"do_sample": False, "temperature": 1.0, "top_k": 50, "top_p": 1.0, "repetition_penalty": 1.0}
    return {
        "model": {
            **{name: value for name, value in ids.items() if value is not None},
            "context_length": config.max_position_embeddings,
            "decoder": {
                # 0 leaves it to ONNX Runtime, which takes every core; when it is left out, genai takes half of them.
                "session_options": {"log_id": "onnxruntime-genai", "intra_op_num_threads": 0, "provider_options": []},
                "filename": filename,
                "head_size": attention.head_dim if attention else 0,
                "hidden_size": config.hidden_size,
                "inputs": {
                    "input_ids": "input_ids",
                    "attention_mask": "attention_mask",
                    "past_key_names": "past_key_values.%d.key",
                    "past_value_names": "past_key_values.%d.value",
                    **{f"past_{kind}_names": f"past_state.%d.{name}" for name, kind in fixed.items()},
                },
                "outputs": {
                    "logits": "logits",
                    "present_key_names": "present.%d.key",
                    "present_value_names": "present.%d.value",
                    **{f"present_{kind}_names": f"present_state.%d.{name}" for name, kind in fixed.items()},
                },
                **_layer_types(decoder, fixed),
                "num_attention_heads": attention.num_heads if attention else 0,
                "num_hidden_layers": config.num_hidden_layers,
                "num_key_value_heads": attention.num_key_value_heads if attention else 0,
            },
            "type": family if family in GENAI_TYPES else "decoder",
            "vocab_size": config.vocab_size,
        },
        "search": {
            **sampling,
            **{name: generation[name] for name in sampling if generation.get(name) is not None},
            "max_length": config.max_position_embeddings,
            "min_length": 0,
            "num_beams": 1,
            "num_return_sequences": 1,
            "past_present_share_buffer": True,
        },
    }


def _layer_types(decoder: Decoder, fixed: Mapping[str, str]) -> dict[str, list[str]]:
    """What each layer is, which it asks for where a convolution's tail is the one state of fixed size (LFM2)."""
    if set(fixed) != {TAIL}:
        return {}
    attends = [any(state.rewinds for state in kept) for kept in decoder.states()]
    return {"layer_types": ["full_attention" if layer else "conv" for layer in attends]}


def _read(path: Path) -> dict[str, Any]:
    """A JSON object, empty where there is no such file."""
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, RecursionError) as error:
        raise CheckpointError(f"`{path}` cannot be read: {error}") from error
    if not isinstance(document, dict):
        raise CheckpointError(f"`{path}` is no JSON object")
    return document
