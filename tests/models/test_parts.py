"""What parts answer: linear layers by group and stack, state as data, what a target is asked for before it writes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from random_model import CONFIGS
from safetensors.numpy import save_file

from ovround import models
from ovround.checkpoint.files.safetensors_file import open_safetensors
from ovround.checkpoint.files.torch_file import LoadedFile, open_torch
from ovround.errors import ArchitectureError
from ovround.models import from_config, verbs
from ovround.models.block import Block
from ovround.models.calls import attention_specs, carried, check_verbs, ropes
from ovround.models.decoder import DecoderConfig
from ovround.models.gemma4_text import cache_sources
from ovround.models.parts.dense import DenseMlp
from ovround.models.parts.norms import PRE, Norm, NormPlaces
from ovround.models.state import State
from ovround.tensors.tensor_source import TensorSource


def test_layers_of_one_multiplication_are_known_by_the_module_they_are_joined_to() -> None:
    decoder = from_config(CONFIGS["qwen2_moe-1"])  # experts and a shared one in block 0, a dense MLP in block 1
    at = "model.layers.0"
    assert decoder.same_input(0) == {
        f"{at}.self_attn.qkv_proj": tuple(f"{at}.self_attn.{kind}_proj" for kind in "qkv"),
        f"{at}.mlp.shared_expert.gate_up_proj": tuple(f"{at}.mlp.shared_expert.{kind}_proj" for kind in ("gate", "up")),
    }
    assert list(decoder.expert_stacks(0)) == [f"{at}.mlp.experts.{kind}_proj" for kind in ("gate", "up", "down")]
    assert decoder.expert_stacks(0)[f"{at}.mlp.experts.up_proj"] == tuple(
        f"{at}.mlp.experts.{expert}.up_proj" for expert in range(4)
    )
    assert "model.layers.1.mlp.gate_up_proj" in decoder.same_input(1)
    assert not decoder.expert_stacks(1)
    assert decoder.largest_stack == 4
    shares = decoder.token_shares()
    assert (shares[f"{at}.mlp.experts.3.down_proj"], shares[f"{at}.mlp.shared_expert.down_proj"]) == (0.5, 1.0)
    assert {name for group in decoder.fused(0) for name in group} == set(decoder.linears(0))


def test_state_is_data() -> None:
    decoder = from_config(CONFIGS["llama-0"])
    key, value = decoder.state(1)
    assert (key.shape, key.grows, key.rewinds) == ((2, 0, 32), 1, True)
    assert (value.past(1), value.present(1)) == ("past_key_values.1.value", "present.1.value")
    tail = State("conv", (3, 64))
    assert (tail.rewinds, tail.past(0), tail.present(0)) == (False, "past_state.0.conv", "present_state.0.conv")
    with pytest.raises(ValueError, match="axis 0"):
        State("key", (2, 0, 32), grows=0)


def test_layers_read_the_cache_of_the_last_one_of_their_kind() -> None:
    kinds = ("sliding", "sliding", "full", "sliding", "full", "sliding", "full")
    assert cache_sources(kinds, 3) == (None, None, None, None, 2, 3, 2)
    assert cache_sources(kinds, 0) == (None,) * 7
    decoder = from_config(CONFIGS["gemma3n_text-0"])
    assert [len(decoder.state(layer)) for layer in range(3)] == [2, 2, 0]
    assert not any("k_proj" in name or "v_proj" in name for name in decoder.tensors(2))
    assert carried(decoder, 2) == ("ids", "embeddings", "1.key", "1.value")
    assert decoder.tables(2) == ("model.layers.2.per_layer_input.embed_tokens",)


def test_one_layers_part_of_a_table_of_all_layers_is_read_alone(tmp_path: Path) -> None:
    rows = np.arange(40, dtype=np.float32).reshape(4, 10)
    source = TensorSource("table.weight", (4, 10), columns=slice(4, 6))
    save_file({"table.weight": rows}, tmp_path / "model.safetensors")
    torch.save({"table.weight": torch.from_numpy(rows)}, tmp_path / "model.bin")
    for file in (open_safetensors(tmp_path / "model.safetensors"), open_torch(tmp_path / "model.bin", LoadedFile())):
        part = file.read_columns("table.weight", slice(4, 6))
        assert part.data.tolist() == rows[:, 4:6].tolist()
        assert (
            source.take(part).data.tolist()
            == source.take(file.read("table.weight")).data.tolist()
            == part.data.tolist()
        )


def test_every_kind_of_attention_is_seen_once() -> None:
    decoder = from_config(CONFIGS["gemma3_text-0"])
    assert [spec.sliding_window for spec in attention_specs(decoder)] == [12, None]
    assert [spec.sliding_window for spec in attention_specs(decoder, 1)] == [None]
    assert [rope.theta for rope in ropes(decoder)] == [1e4, 1e6]


def test_a_block_and_a_model_have_what_they_say() -> None:
    norm = Norm("rms", 8, 1e-6)
    with pytest.raises(ValueError, match="1 parts with norms for 2"):
        Block(norm, (DenseMlp(8, 16),), PRE)
    with pytest.raises(ValueError, match="the same name: mlp, mlp"):
        Block(norm, (DenseMlp(8, 16), DenseMlp(8, 32)), PRE)
    alone = Block(norm, (DenseMlp(8, 16),), NormPlaces((("norm", None),)))
    assert list(alone.tensors("model.layers.0"))[:2] == [
        "model.layers.0.norm.weight",
        "model.layers.0.mlp.gate_proj.weight",
    ]
    assert not alone.states()
    with pytest.raises(ArchitectureError, match="vocab_size is 0; 1 to 2147483647 is allowed"):
        DecoderConfig(hidden_size=8, num_hidden_layers=1, vocab_size=0, max_position_embeddings=8)
    with pytest.raises(ArchitectureError, match="num_hidden_layers is 10001; 1 to 10000"):
        DecoderConfig(hidden_size=8, num_hidden_layers=10001, vocab_size=8, max_position_embeddings=8)


def test_a_verb_is_found_by_its_file_and_an_error_inside_of_it_is_no_missing_verb(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(models, "__path__", [*models.__path__, str(tmp_path)])
    (tmp_path / "verb_doubled.py").write_text("def compute(ops, verb, inputs, layer):\n    return inputs[0] * 2\n")
    (tmp_path / "verb_broken.py").write_text("import a_library_that_is_not_there\n")
    assert verbs.implementation("torch", "doubled")(None, None, (4,), 0) == 8
    with pytest.raises(ArchitectureError, match="`doubled` is not built for openvino") as caught:
        verbs.implementation("openvino", "doubled")
    assert caught.value.hint == "it is for torch"
    with pytest.raises(ModuleNotFoundError, match="a_library_that_is_not_there"):
        verbs.implementation("torch", "broken")
    check_verbs(from_config(CONFIGS["mixtral-0"]), "openvino")  # no verbs of its own
