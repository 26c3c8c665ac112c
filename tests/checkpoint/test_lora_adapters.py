"""LoRA adapters, as PEFT writes them: merged weights are what PEFT computes, by every key; what is not computed is refused by key."""

from __future__ import annotations

import copy
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from checkpoint_writer import TEMPLATE, tiny_config, write_tokenizer
from numpy.typing import NDArray
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModelForCausalLM

from ovround.artifact.manifest import ENGINE_FORMATS
from ovround.checkpoint import mapped
from ovround.conversion.adapted_source import open_adapted
from ovround.conversion.convert import convert
from ovround.conversion.preparation import prepare
from ovround.conversion.stored_head import with_stored_head
from ovround.errors import CheckpointError, OvroundError, ResumeError, TensorError, UsageError
from ovround.models import from_config, smallest_configs
from ovround.options.adapter_choice import AdapterChoice
from ovround.options.convert_options import ConvertOptions
from ovround.runtime.engines import open_engine

peft = pytest.importorskip("peft")
pytestmark = [
    pytest.mark.filterwarnings(f"ignore::{kind}") for kind in ("FutureWarning", "UserWarning")
]  # of peft itself

IDS = np.random.default_rng(3).integers(5, 300, (2, 24))
TOLERANCE = 1e-6  # of the largest value of a weight: float32 products in another order
LOGITS = 2e-5  # of the largest logit
LLAMA = {**tiny_config(num_hidden_layers=2), "attention_bias": True, "mlp_bias": False}
ATTENTION = ["q_proj", "v_proj"]


def write_base(folder: Path, config: dict[str, Any], dtype: torch.dtype = torch.float32) -> Any:
    """A random model, saved by transformers; returns it in float32 with the saved values."""
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(config))
    model = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(folder), attn_implementation="eager").eval()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, value in model.named_parameters():
            gain = value.dim() == 1 and name.endswith("weight")
            value.copy_((torch.randn(value.shape, generator=generator) * 0.2 + gain).to(dtype))
    copy.deepcopy(model).to(dtype).save_pretrained(folder)
    (folder / "config.json").write_text(json.dumps(config))
    write_tokenizer(folder)
    return model.float()


def write_adapter(folder: Path, base: Any, seed: int = 1, **settings: Any) -> Any:
    """Train nothing, but give every trainable tensor random values; returns PEFT's model, not merged."""
    torch.manual_seed(seed)
    settings = {"r": 4, "lora_alpha": 6, "task_type": "CAUSAL_LM", **settings}
    model = peft.get_peft_model(copy.deepcopy(base), peft.LoraConfig(**settings)).eval()
    with torch.no_grad():
        for value in model.parameters():
            if value.requires_grad:
                value.add_(torch.randn_like(value) * 0.1)
    model.save_pretrained(folder)
    return model


def logits_of(model: Any) -> NDArray[np.float32]:
    with torch.no_grad():
        values: NDArray[np.float32] = model(input_ids=torch.from_numpy(IDS)).logits.numpy()
    return values


def merged_tensors(folder: Path, *adapters: AdapterChoice) -> dict[str, NDArray[np.float32]]:
    """Every tensor of the model that is converted, as float32 under the decoder's names."""
    source = open_adapted(folder, adapters)
    decoder, _ = with_stored_head(from_config(source.config), source)
    checkpoint = mapped(source, decoder.sources(), decoder.every_tensor())
    checkpoint.check(decoder.every_tensor(), decoder.unused_tensors())
    infos = checkpoint.tensors()
    tensors = {name: checkpoint.read(name) for name in decoder.every_tensor()}
    assert {name: tensor.shape for name, tensor in tensors.items()} == decoder.every_tensor()
    assert all(infos[name].size_bytes == tensor.size_bytes for name, tensor in tensors.items())
    return {name: tensor.float32() for name, tensor in tensors.items()}


def check_tensors(ours: dict[str, NDArray[np.float32]], merged: Any) -> None:
    """Against transformers' model after PEFT's merge_and_unload."""
    theirs = {name: value.detach().numpy() for name, value in merged.state_dict().items()}
    for name, values in ours.items():
        assert np.abs(values - theirs[name]).max() <= TOLERANCE * np.abs(theirs[name]).max(), name


def engines_error(source: Path, out: Path, expected: NDArray[np.float32], *adapters: AdapterChoice) -> float:
    options = ConvertOptions(formats=ENGINE_FORMATS, bits=16, embedding_bits=16, lm_head_bits=16, adapter=adapters)
    errors = []
    for folder in convert(source, out, options).folders:
        engine = open_engine(folder, exact=True, threads=1)
        errors.append(float(np.abs(engine.logits(IDS) - expected).max() / np.abs(expected).max()))
        engine.close()
    return max(errors)


EVERY_LINEAR = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
CASES: dict[str, dict[str, Any]] = {
    "plain": {"target_modules": EVERY_LINEAR},
    "rank-stabilised": {"target_modules": ATTENTION, "use_rslora": True},
    "patterns": {
        "target_modules": ATTENTION, "rank_pattern": {"q_proj": 2, r"layers\.1\.self_attn\.v_proj": 8},
        "alpha_pattern": {r"^model\.layers\.0.*q_proj": 3, "v_proj": 16},
    },
    "some layers": {"target_modules": ATTENTION, "layers_to_transform": [1]},
    "trained biases": {"target_modules": ATTENTION, "bias": "all"},
    "trained biases of its layers": {"target_modules": ATTENTION, "bias": "lora_only"},
    "a bias of its own": {"target_modules": ATTENTION, "lora_bias": True},
    "DoRA": {"target_modules": EVERY_LINEAR, "use_dora": True},
    "norms as a whole": {"target_modules": ATTENTION, "modules_to_save": ["input_layernorm"]},
    "the head as a whole": {"target_modules": ATTENTION, "modules_to_save": ["lm_head"]},
    "the embedding as a whole": {"target_modules": ATTENTION, "modules_to_save": ["embed_tokens"]},
    "both as a whole": {"target_modules": ATTENTION, "modules_to_save": ["embed_tokens", "lm_head"]},
    "the embedding": {"target_modules": ["embed_tokens"]},
    "the embedding, DoRA": {"target_modules": ["embed_tokens"], "use_dora": True},
    "the head": {"target_modules": ["lm_head"]},
    "both": {"target_modules": ["embed_tokens", "lm_head"]},
    "rows of the embedding": {"target_modules": ATTENTION, "trainable_token_indices": [9, 5, 7]},
    "rows by name": {"target_modules": ATTENTION, "trainable_token_indices": {"embed_tokens": [5, 7]}},
    "gaussian start": {"target_modules": ATTENTION, "init_lora_weights": "gaussian"},
    "orthogonal start": {"target_modules": ATTENTION, "init_lora_weights": "orthogonal"},
}  # fmt: skip


@pytest.mark.parametrize("tied", [False, True], ids=["untied", "tied"])
@pytest.mark.parametrize("name", CASES)
def test_each_key_is_computed_as_peft_does(tmp_path: Path, name: str, tied: bool) -> None:
    """PEFT's model before it merges is the truth; merged it is the same, but where a low-rank change meets a tied head."""
    base = write_base(tmp_path / "base", {**LLAMA, "tie_word_embeddings": tied})
    model = write_adapter(tmp_path / "adapter", base, **CASES[name])
    expected = logits_of(model)
    ours = merged_tensors(tmp_path / "base", AdapterChoice(str(tmp_path / "adapter")))
    merged = model.merge_and_unload()
    if np.abs(logits_of(merged) - expected).max() <= LOGITS * np.abs(expected).max():
        check_tensors(ours, merged)
    else:
        assert (tied, name) in [(True, one) for one in ("the embedding", "the embedding, DoRA", "the head", "both")]
    assert (
        engines_error(tmp_path / "base", tmp_path / "out", expected, AdapterChoice(str(tmp_path / "adapter"))) <= LOGITS
    )


@pytest.mark.parametrize(
    ("family", "targets"),
    [("gpt2", ["c_attn", "c_proj", "c_fc"]), ("phi3", ["qkv_proj", "gate_up_proj"]), ("falcon", ["query_key_value"]),
     ("bloom", ["query_key_value", "dense"]), ("gpt_neox", ["query_key_value"]), ("gemma3_text", EVERY_LINEAR),
     ("opt", ["q_proj", "fc1"]), ("qwen2_moe", ["q_proj", "shared_expert.up_proj"])],
)  # fmt: skip
def test_joined_and_turned_weights_of_other_families(tmp_path: Path, family: str, targets: list[str]) -> None:
    """GPT-2's weights lie turned, some of them square; query, key and value lie in one tensor."""
    config = {**smallest_configs(family)[0], "vocab_size": 320, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
    base = write_base(tmp_path / "base", config)
    model = write_adapter(tmp_path / "adapter", base, target_modules=targets)
    choice = AdapterChoice(str(tmp_path / "adapter"))
    assert engines_error(tmp_path / "base", tmp_path / "out", logits_of(model), choice) <= LOGITS


def test_several_adapters_and_scales(tmp_path: Path) -> None:
    """One after the other; DoRA's magnitudes are over the base's own norm, whatever was merged before."""
    base = write_base(tmp_path / "base", LLAMA)
    choices = []
    model = None
    for number, (scale, settings) in enumerate([(0.5, {}), (1.0, {"use_dora": True}), (-0.25, {"use_rslora": True})]):
        folder = tmp_path / f"adapter-{number}"
        write_adapter(folder, base, seed=number, target_modules=ATTENTION, **settings)
        choices.append(AdapterChoice.parse(f"{folder}:{scale}" if scale != 1 else str(folder)))
        assert choices[-1].scale == scale
        if model is None:
            model = peft.PeftModel.from_pretrained(copy.deepcopy(base), folder, adapter_name="0")
        else:
            model.load_adapter(folder, str(number))
        for module in model.modules():
            if isinstance(module, peft.tuners.lora.LoraLayer) and str(number) in module.scaling:
                module.set_scale(str(number), scale)
    merged = model.merge_and_unload(adapter_names=["0", "1", "2"])
    check_tensors(merged_tensors(tmp_path / "base", *choices), merged)


def test_the_sum_is_float32_before_it_is_quantised(tmp_path: Path) -> None:
    """Of a base in bfloat16: the integers are those of PEFT's merge in float32, not of a sum rounded to bfloat16."""
    base = write_base(tmp_path / "base", LLAMA, torch.bfloat16)
    model = write_adapter(tmp_path / "adapter", base, target_modules=EVERY_LINEAR)
    model.merge_and_unload().save_pretrained(tmp_path / "merged")
    (tmp_path / "merged/config.json").write_text(json.dumps(LLAMA))
    write_tokenizer(tmp_path / "merged")
    options = {"recipe": "rtn", "group_size": 32}
    choice = AdapterChoice(str(tmp_path / "adapter"))
    ours = convert(tmp_path / "base", tmp_path / "one", ConvertOptions(**options, adapter=(choice,))).manifests[0]
    theirs = convert(tmp_path / "merged", tmp_path / "two", ConvertOptions(**options)).manifests[0]
    digests = [{w.name: w.sha256 for w in one.weights if w.bits == 4} for one in (ours, theirs)]
    differing = [name for name in digests[0] if digests[0][name] != digests[1][name]]
    assert digests[0]
    assert not differing


def test_an_adapter_alone_finds_its_base(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By adapter_config.json, and says so; its tokenizer and template are used; the manifest holds its digest."""
    base = write_base(tmp_path / "base", LLAMA)
    model = write_adapter(tmp_path / "adapter", base, target_modules=ATTENTION)
    path = tmp_path / "adapter/adapter_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "base_model_name_or_path": str(tmp_path / "base")}))
    (tmp_path / "adapter/chat_template.jinja").write_text(TEMPLATE + "!")
    notes: list[str] = []
    options = ConvertOptions(bits=16, embedding_bits=16, lm_head_bits=16)
    conversion = convert(
        tmp_path / "adapter", tmp_path / "out", options, lambda at: notes.append(at.note) if at.note else None
    )
    manifest = conversion.manifests[0]
    assert notes == list(manifest.notes)
    assert "the base model of adapter adapter is base" in notes
    assert "tokenizer or chat template of adapter adapter are used" in notes
    assert {"adapter/adapter_config.json", "adapter/adapter_model.safetensors"} <= manifest.source_files.keys()
    assert manifest.source_name == "adapter"
    assert (conversion.folders[0] / "chat_template.jinja").read_text() == TEMPLATE + "!"
    engine = open_engine(conversion.folders[0], exact=True, threads=1)
    expected = logits_of(model)
    assert np.abs(engine.logits(IDS) - expected).max() <= LOGITS * np.abs(expected).max()
    engine.close()


@pytest.mark.parametrize("named", [None, "ovround-tests/no-such-base"])
def test_an_adapter_without_its_base_says_what_to_do(tmp_path: Path, named: str | None, monkeypatch: Any) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    base = write_base(tmp_path / "base", LLAMA)
    write_adapter(tmp_path / "adapter", base, target_modules=ATTENTION)
    path = tmp_path / "adapter/adapter_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "base_model_name_or_path": named}))
    with pytest.raises(CheckpointError) as caught:
        prepare(str(tmp_path / "adapter"), tmp_path / "out", ConvertOptions(recipe="rtn"))
    assert "is a LoRA adapter" in str(caught.value)
    assert str(named) in str(caught.value)
    assert f"ovround convert BASE OUT --adapter {tmp_path / 'adapter'}" in str(caught.value.hint)


def test_a_vocabulary_that_the_adapter_enlarged(tmp_path: Path) -> None:
    """New tokens: the adapter holds embedding and head as a whole, of more rows, and the tokenizer."""
    base = write_base(tmp_path / "base", LLAMA)
    base.resize_token_embeddings(336)
    model = write_adapter(
        tmp_path / "adapter", base, target_modules=ATTENTION, modules_to_save=["embed_tokens", "lm_head"]
    )
    write_tokenizer(tmp_path / "adapter")
    choice = AdapterChoice(str(tmp_path / "adapter"))
    conversion = convert(
        tmp_path / "base",
        tmp_path / "out",
        ConvertOptions(bits=16, lm_head_bits=16, embedding_bits=16, adapter=(choice,)),
    )
    assert json.loads((conversion.folders[0] / "config.json").read_text())["vocab_size"] == 336
    engine = open_engine(conversion.folders[0], exact=True, threads=1)
    expected = logits_of(model)
    assert np.abs(engine.logits(IDS) - expected).max() <= LOGITS * np.abs(expected).max()
    engine.close()


def edited(folder: Path, out: Path, config: dict[str, Any] | None = None, **tensors: torch.Tensor | None) -> Path:
    """A copy of an adapter with other keys and tensors; None removes one."""
    shutil.copytree(folder, out)
    path = out / "adapter_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **(config or {})}))
    kept = load_file(out / "adapter_model.safetensors") | tensors
    save_file({k: v for k, v in kept.items() if v is not None}, out / "adapter_model.safetensors")
    return out


LORA = "base_model.model.model.layers.0.self_attn.q_proj.lora_"


@pytest.mark.parametrize(
    ("config", "tensors", "error", "message"),
    [
        ({"peft_type": "IA3"}, {}, CheckpointError, "peft_type is 'IA3'"),
        ({"peft_type": None}, {}, CheckpointError, "peft_type is None"),
        ({"init_lora_weights": "pissa_niter_4"}, {}, CheckpointError, "init_lora_weights is 'pissa_niter_4'"),
        ({"alora_invocation_tokens": [1]}, {}, CheckpointError, "`alora_invocation_tokens` is [1]"),
        ({"layer_replication": [[0, 2]]}, {}, CheckpointError, "`layer_replication` is [[0, 2]]"),
        ({"target_parameters": ["mlp.w"]}, {}, CheckpointError, "`target_parameters` is ['mlp.w']"),
        ({"a_key_of_tomorrow": True}, {}, CheckpointError, "`a_key_of_tomorrow` is True"),
        ({"lora_alpha": "x"}, {}, CheckpointError, "lora_alpha of `model.layers.0.self_attn.q_proj` is 'x'"),
        ({}, {f"{LORA}A.weight": None}, CheckpointError, "has only base_model.model.model.layers.0.self_attn.q_proj.lora_B.weight"),
        ({}, {f"{LORA}A.weight": torch.zeros(4, 63)}, TensorError, "[64, 4, 4, 63], which does not fit"),
        ({}, {f"{LORA}diag": torch.zeros(4)}, CheckpointError, "lora_diag` of a kind that is not known"),
        ({}, {"base_model.model.other.weight": torch.zeros(4)}, CheckpointError, "changes `other`, which"),
        ({}, {f"{LORA}A.weight": torch.full((4, 64), float("nan"))}, TensorError, "holds NaN or infinity"),
    ],
)  # fmt: skip
def test_what_cannot_be_merged_is_refused_by_key(
    tmp_path: Path, config: dict[str, Any], tensors: dict[str, Any], error: type[OvroundError], message: str
) -> None:
    base = write_base(tmp_path / "base", {**LLAMA, "head_dim": 16})
    write_adapter(tmp_path / "first", base, target_modules=ATTENTION)
    folder = edited(tmp_path / "first", tmp_path / "adapter", config, **tensors)
    options = ConvertOptions(recipe="rtn", group_size=32, adapter=(AdapterChoice(str(folder)),))
    with pytest.raises(error) as caught:
        convert(tmp_path / "base", tmp_path / "out", options)
    assert message in str(caught.value)
    assert not (tmp_path / "out").exists()


def test_a_quantised_base_is_refused_with_the_way_out(tmp_path: Path) -> None:
    base = write_base(tmp_path / "base", LLAMA)
    write_adapter(tmp_path / "adapter", base, target_modules=ATTENTION)
    options = ConvertOptions(formats=("gptq",), recipe="rtn", group_size=32)
    packed = convert(tmp_path / "base", tmp_path / "packed", options).folders[0]
    choice = AdapterChoice(str(tmp_path / "adapter"))
    with pytest.raises(UsageError, match=r"weights are quantised already \(gptq\)") as caught:
        prepare(str(packed), tmp_path / "out", ConvertOptions(adapter=(choice,)))
    assert "give the unquantised base model" in str(caught.value.hint)


def test_another_adapter_does_not_continue_a_stopped_run(tmp_path: Path, text_file: Path) -> None:
    """Its digest and scale are in the fingerprint of finished blocks."""
    base = write_base(tmp_path / "base", LLAMA)
    write_adapter(tmp_path / "adapter", base, target_modules=ATTENTION)
    settings = {
        "recipe": "light",
        "iters": 2,
        "nsamples": 4,
        "seqlen": 32,
        "calibration": (text_file,),
        "group_size": 32,
    }

    def stop(at: Any) -> None:
        if at.stage == "quantise" and at.block == 1:
            raise KeyboardInterrupt

    choice = AdapterChoice(str(tmp_path / "adapter"))
    with pytest.raises(KeyboardInterrupt):
        convert(tmp_path / "base", tmp_path / "out", ConvertOptions(**settings, adapter=(choice,)), stop)
    for other in ((AdapterChoice(choice.model, 0.5),), ()):
        with pytest.raises(ResumeError, match="adapter"):
            convert(tmp_path / "base", tmp_path / "out", ConvertOptions(**settings, adapter=other))
    convert(tmp_path / "base", tmp_path / "out", ConvertOptions(**settings, adapter=(choice,)))


@pytest.mark.parametrize(
    ("text", "model", "scale"),
    [
        ("a/b", "a/b", 1.0),
        ("a/b:0.5", "a/b", 0.5),
        ("a:-1", "a", -1.0),
        ("C:\\x", "C:\\x", 1.0),
        ("C:\\x:2", "C:\\x", 2.0),
    ],
)
def test_how_an_adapter_is_typed(text: str, model: str, scale: float) -> None:
    choice = AdapterChoice.parse(text)
    assert (choice.model, choice.scale) == (model, scale)


def test_an_adapter_that_torch_saved(tmp_path: Path) -> None:
    base = write_base(tmp_path / "base", LLAMA)
    model = write_adapter(tmp_path / "adapter", base, target_modules=ATTENTION)
    path = tmp_path / "adapter/adapter_model.safetensors"
    torch.save(load_file(path), tmp_path / "adapter/adapter_model.bin")
    path.unlink()
    check_tensors(merged_tensors(tmp_path / "base", AdapterChoice(str(tmp_path / "adapter"))), model.merge_and_unload())


def test_a_folder_that_is_no_adapter(tmp_path: Path) -> None:
    write_base(tmp_path / "base", LLAMA)
    with pytest.raises(CheckpointError, match=r"has no adapter_config\.json: it is no LoRA adapter"):
        open_adapted(tmp_path / "base", (AdapterChoice(str(tmp_path / "base")),))
