"""Multimodal checkpoints: their text model computes what transformers' whole model computes from text alone, on each engine."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from multimodal_model import multimodal_config, write_multimodal
from random_model import write_random_model
from safetensors.torch import load_file, save_file
from transformers import CONFIG_MAPPING, AutoModelForCausalLM, AutoModelForImageTextToText
from transformers.models.auto.modeling_auto import (
    MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
    MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES,
)

from ovround.artifact.manifest import ENGINE_FORMATS
from ovround.checkpoint.text_part import MULTIMODAL, TEXT_MODELS, text_config
from ovround.conversion.convert import Conversion, convert
from ovround.errors import ArchitectureError, CheckpointError, TensorError
from ovround.models import from_config
from ovround.options.convert_options import ConvertOptions
from ovround.runtime.engines import open_engine
from ovround.runtime.model_info import read_model_info
from ovround.runtime.text.chat_template import ChatTemplate

IDS = np.random.default_rng(1).integers(3, 290, (2, 40))
TOLERANCE = 2e-5  # of the largest logit; float32 sums in another order: 2e-7 to 3e-6 measured
Rename = Callable[[str], str]


def whole_logits(model: Any) -> np.ndarray:
    """Logits `[B, T, V]` of the whole multimodal model, fed with text alone."""
    with torch.no_grad():
        values: np.ndarray = model(input_ids=torch.from_numpy(IDS)).logits.numpy()
    return values


def converted(source: Path, out: Path, **options: Any) -> Conversion:
    settings = {"formats": ENGINE_FORMATS, "bits": 16, "embedding_bits": 16, "lm_head_bits": 16, **options}
    return convert(source, out, ConvertOptions(**settings))


def error_of(source: Path, out: Path, expected: np.ndarray) -> float:
    """The largest difference of the engines' logits from `expected`, as a part of the largest logit."""
    errors = []
    for folder in converted(source, out).folders:
        engine = open_engine(folder, exact=True, threads=1)
        errors.append(float(np.abs(engine.logits(IDS) - expected).max() / np.abs(expected).max()))
        engine.close()
    return max(errors)


def renamed(source: Path, out: Path, rename: Rename, config: Callable[[dict[str, Any]], dict[str, Any]] = dict) -> Path:
    """A copy of a checkpoint with other names of tensors and another config.json."""
    shutil.copytree(source, out)
    tensors = {rename(name): tensor for name, tensor in load_file(source / "model.safetensors").items()}
    save_file(tensors, out / "model.safetensors", metadata={"format": "pt"})
    (out / "config.json").write_text(json.dumps(config(json.loads((source / "config.json").read_text()))))
    return out


@pytest.mark.parametrize("model_type", [kind for kind in MULTIMODAL if kind != "gemma3n"])
def test_the_text_model_is_the_whole_model_on_text(tmp_path: Path, model_type: str) -> None:
    """Towers, projectors and all, as transformers saves it."""
    model = write_multimodal(tmp_path / "model", multimodal_config(model_type))
    assert error_of(tmp_path / "model", tmp_path / "out", whole_logits(model)) <= TOLERANCE


def test_gemma_3n_among_its_towers(tmp_path: Path) -> None:
    """As published: transformers builds its vision tower with timm alone, which is not needed for the text."""
    config = multimodal_config("gemma3n")
    model = write_random_model(tmp_path / "text", config["text_config"])
    source = renamed(
        tmp_path / "text", tmp_path / "whole", lambda name: name.replace("model.", "model.language_model.", 1)
    )
    towers = {"model.vision_tower.x.weight": torch.ones(1), "model.embed_audio.embedding.weight": torch.ones(1)}
    save_file({**load_file(source / "model.safetensors"), **towers}, source / "model.safetensors", {"format": "pt"})
    (source / "config.json").write_text(json.dumps(config))
    assert error_of(source, tmp_path / "out", whole_logits(model)) <= TOLERANCE


def names_of_today(name: str) -> str:
    """Llava's and Qwen2-VL's tensors as transformers 5 has them in memory."""
    if name.startswith("visual."):
        return f"model.{name}"
    if name.startswith("language_model.model."):
        return f"model.language_model.{name.removeprefix('language_model.model.')}"
    if name.startswith(("vision_tower.", "multi_modal_projector.")):
        return f"model.{name}"
    if name.startswith("model.") and not name.startswith("model.language_model."):
        return f"model.language_model.{name.removeprefix('model.')}"
    return name.removeprefix("language_model.")


def names_of_an_inner_model(name: str) -> str:
    """The text model's base saved within the whole one: `language_model.layers`."""
    inner = name.removeprefix("language_model.model.").removeprefix("model.")
    return name if inner == name or name.startswith("model.visual") else f"language_model.{inner}"


@pytest.mark.parametrize("rename", [names_of_today, names_of_an_inner_model])
@pytest.mark.parametrize("model_type", ["gemma3", "mistral3", "qwen2_5_vl", "llava_next"])
def test_every_generation_of_names(tmp_path: Path, model_type: str, rename: Rename) -> None:
    model = write_multimodal(tmp_path / "model", multimodal_config(model_type))
    source = renamed(tmp_path / "model", tmp_path / "other", rename)
    assert load_file(source / "model.safetensors").keys() != load_file(tmp_path / "model/model.safetensors").keys()
    assert error_of(source, tmp_path / "out", whole_logits(model)) <= TOLERANCE


def test_ministral_3_in_fp8_as_it_is_published(tmp_path: Path) -> None:
    """One scale a weight, one more for activations, and a list of towers that stay in float."""
    write_multimodal(tmp_path / "model", multimodal_config("mistral3"))
    tensors, stored, stands_for = load_file(tmp_path / "model" / "model.safetensors"), {}, {}
    for name, tensor in tensors.items():
        stored[name] = stands_for[name] = tensor
        if "language_model" in name and name.endswith("_proj.weight"):
            scale, module = (tensor.abs().max() / 448).to(torch.bfloat16), name.removesuffix(".weight")
            stored[name] = (tensor / scale.float()).clamp(-448, 448).to(torch.float8_e4m3fn)
            stored |= {f"{module}.weight_scale_inv": scale, f"{module}.activation_scale": torch.tensor(0.02)}
            stands_for[name] = stored[name].float() * scale.float()
    assert len(stored) > len(tensors)
    save_file(stands_for, tmp_path / "model" / "model.safetensors", metadata={"format": "pt"})
    model = AutoModelForImageTextToText.from_pretrained(tmp_path / "model", attn_implementation="eager").float().eval()
    expected = whole_logits(model)
    save_file(stored, tmp_path / "model" / "model.safetensors", metadata={"format": "pt"})
    config = json.loads((tmp_path / "model" / "config.json").read_text())
    config["quantization_config"] = {
        "quant_method": "fp8", "activation_scheme": "static", "dequantize": False, "weight_block_size": None,
        "modules_to_not_convert": ["model.vision_tower", "model.multi_modal_projector", "lm_head"],
    }  # fmt: skip
    (tmp_path / "model" / "config.json").write_text(json.dumps(config))
    assert error_of(tmp_path / "model", tmp_path / "out", expected) <= TOLERANCE


@pytest.mark.parametrize("model_type", ["qwen2_vl", "qwen2_5_vl"])
def test_a_flat_configuration_of_old(tmp_path: Path, model_type: str) -> None:
    """Qwen's own files have the text model's keys at the top, and its rotation as `mrope` under rope_scaling."""

    def flat(config: dict[str, Any]) -> dict[str, Any]:
        text = config.pop("text_config")
        text.pop("rope_parameters")
        rope = {"rope_theta": 5e5, "rope_scaling": {"type": "mrope", "mrope_section": [2, 3, 3]}}
        return {**text, **config, **rope, "model_type": model_type, "max_window_layers": 1}

    write_multimodal(tmp_path / "first", multimodal_config(model_type))
    source = renamed(tmp_path / "first", tmp_path / "flat", str, flat)
    model = AutoModelForImageTextToText.from_pretrained(source, attn_implementation="eager").float().eval()
    assert model.config.text_config.rope_parameters["rope_theta"] == 5e5
    assert error_of(source, tmp_path / "out", whole_logits(model)) <= TOLERANCE


@pytest.mark.parametrize("name", TEXT_MODELS)
def test_omitted_keys_are_those_of_transformers_classes(name: str) -> None:
    """Files omit what is at its default: Gemma 3 4B states neither its heads nor its vocabulary."""
    model_type = next((kind for kind, entry in MULTIMODAL.items() if entry.fixed and entry.text == name), "llava")
    rope = {"rope_theta": 1e6} if name == "mixtral" else {}
    stated = CONFIG_MAPPING[name]().to_dict()
    stated.pop("num_local_experts", None)
    experts = {"num_experts": 16} if "moe" in name else {}
    least = text_config({"model_type": model_type, "text_config": {"model_type": name, **rope, **experts}})
    full = text_config({"model_type": model_type, "text_config": {**stated, **experts}})
    assert from_config({**least, "tie_word_embeddings": True}) == from_config({**full, "tie_word_embeddings": True})
    if name == "muse_glimmer_text":  # which has no class of its own with a head
        return
    classes = MODEL_FOR_CAUSAL_LM_MAPPING_NAMES | MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES
    assert classes[TEXT_MODELS[name].family] == TEXT_MODELS[name].architecture


@pytest.mark.parametrize("model_type", MULTIMODAL)
def test_the_defaults_of_a_kind_are_transformers(model_type: str) -> None:
    """Which text model it is, and whether its head is tied, where the file says neither."""
    known = CONFIG_MAPPING[model_type]()
    assert known.text_config.model_type == MULTIMODAL[model_type].text
    assert bool(getattr(known, "tie_word_embeddings", False)) == MULTIMODAL[model_type].tied


@pytest.mark.parametrize("stated", [True, None], ids=["stated", "by default"])
def test_a_head_that_is_stored_and_differs_is_used(tmp_path: Path, stated: bool | None) -> None:
    """Mistral Small 3.1 has a head of its own, and a configuration whose default ties it."""
    config = multimodal_config("mistral3") | {"tie_word_embeddings": False}
    model = write_multimodal(tmp_path / "first", config)

    def tie(config: dict[str, Any]) -> dict[str, Any]:
        del config["tie_word_embeddings"]
        return config if stated is None else {**config, "tie_word_embeddings": stated}

    source = renamed(tmp_path / "first", tmp_path / "model", str, tie)
    assert error_of(source, tmp_path / "out", whole_logits(model)) <= TOLERANCE


def test_a_tied_head_that_is_stored_too_stays_tied(tmp_path: Path) -> None:
    model = write_multimodal(tmp_path / "model", multimodal_config("gemma3"))
    path = tmp_path / "model/model.safetensors"
    tensors = load_file(path)
    tensors["language_model.lm_head.weight"] = tensors["language_model.model.embed_tokens.weight"].clone()
    save_file(tensors, path, metadata={"format": "pt"})
    assert error_of(tmp_path / "model", tmp_path / "out", whole_logits(model)) <= TOLERANCE
    names = [record.name for record in converted(tmp_path / "model", tmp_path / "again").manifests[0].weights]
    assert "lm_head.weight" not in names


def test_caps_that_only_a_text_model_alone_applies(tmp_path: Path) -> None:
    """Gemma 3's whole model computes its logits without `final_logit_softcapping`; so does Llava around Gemma 2."""
    model = write_multimodal(tmp_path / "model", multimodal_config("gemma3", final_logit_softcapping=2.0))
    assert error_of(tmp_path / "model", tmp_path / "out", whole_logits(model)) <= TOLERANCE


def test_the_folder_is_that_of_a_text_model(tmp_path: Path) -> None:
    """Its config.json, end tokens and context are as if the text model had been converted alone."""
    config = multimodal_config("gemma3") | {"eos_token_id": [1, 106]}
    write_multimodal(tmp_path / "model", config)
    (tmp_path / "model/generation_config.json").unlink(missing_ok=True)
    (tmp_path / "model/config.json").write_text(json.dumps(config))
    conversion = converted(tmp_path / "model", tmp_path / "out", formats=("openvino",))
    written = json.loads((conversion.folders[0] / "config.json").read_text())
    assert (written["model_type"], written["architectures"]) == ("gemma3_text", ["Gemma3ForCausalLM"])
    assert "text_config" not in written
    assert "vision_config" not in written
    assert conversion.manifests[0].model_type == "gemma3_text"
    info = read_model_info(conversion.folders[0])
    assert info.context_length == 256
    assert set(info.end_token_ids) == {1, 2, 106}  # 2 is the tokenizer's


@pytest.mark.parametrize("model_type", ["llava_next", "qwen2_5_vl", "qwen3_vl"])
def test_a_checkpoint_format_holds_the_text_model_for_transformers(tmp_path: Path, model_type: str) -> None:
    """A folder of 16 bits, which transformers' own text model loads under its own names."""
    model = write_multimodal(tmp_path / "model", multimodal_config(model_type))
    conversion = converted(tmp_path / "model", tmp_path / "out", formats=("auto_round",))
    text = AutoModelForCausalLM.from_pretrained(
        conversion.folders[0], dtype=torch.float32, attn_implementation="eager"
    ).eval()
    with torch.no_grad():
        logits = text(torch.from_numpy(IDS)).logits.numpy()
    expected = whole_logits(model)
    assert np.abs(logits - expected).max() / np.abs(expected).max() <= TOLERANCE


def test_integers_of_a_quantised_text_model_are_kept(tmp_path: Path) -> None:
    """GPTQ integers of the text model under the names of a multimodal one, with its tower in float."""
    write_multimodal(tmp_path / "model", multimodal_config("qwen2_5_vl"))
    options: dict[str, Any] = {"recipe": "rtn", "bits": 4, "group_size": 32}
    flat = convert(tmp_path / "model", tmp_path / "gptq", ConvertOptions(formats=("gptq",), **options)).folders[0]
    shutil.copytree(flat, tmp_path / "packed")
    (tmp_path / "packed/ovround.json").unlink()
    whole = json.loads((tmp_path / "model/config.json").read_text())
    settings = json.loads((flat / "config.json").read_text())["quantization_config"]
    (tmp_path / "packed/config.json").write_text(json.dumps({**whole, "quantization_config": settings}))
    packed = {
        name.replace("model.", "model.language_model.", 1): tensor
        for name, tensor in load_file(flat / "model.safetensors").items()
    }
    towers = {
        name: tensor for name, tensor in load_file(tmp_path / "model/model.safetensors").items() if "visual" in name
    }
    save_file(packed | towers, tmp_path / "packed/model.safetensors", metadata={"format": "pt"})
    kept = [
        convert(source, tmp_path / f"out-{source.name}", ConvertOptions(formats=("openvino",)))
        for source in (flat, tmp_path / "packed")
    ]
    digests = [{record.name: record.sha256 for record in one.manifests[0].weights} for one in kept]
    assert digests[0] == digests[1]
    assert kept[1].manifests[0].source_method == "gptq"


def test_a_tensor_of_no_known_part_is_refused(tmp_path: Path) -> None:
    write_multimodal(tmp_path / "model", multimodal_config("llava"))
    path = tmp_path / "model/model.safetensors"
    save_file({**load_file(path), "language_model.second_head.weight": torch.zeros(2, 2)}, path)
    with pytest.raises(TensorError, match=r"language_model\.second_head\.weight"):
        converted(tmp_path / "model", tmp_path / "out")


@pytest.mark.parametrize(
    ("config", "error", "message"),
    [
        ({"model_type": "paligemma", "text_config": {"model_type": "gemma"}}, ArchitectureError, "`paligemma` is not a family"),
        ({"model_type": "llava", "text_config": {"model_type": "xlstm"}}, ArchitectureError, "`xlstm` is not a family"),
        ({"model_type": "llava"}, CheckpointError, "config.json of model_type `llava` has no object `text_config` (None)"),
    ],
)  # fmt: skip
def test_what_is_not_known_is_refused_by_name(config: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error) as caught:
        from_config(text_config(config))
    assert message in str(caught.value)


def test_a_template_that_reads_lists_of_parts_gets_them() -> None:
    """Llava's template writes the text of parts alone; strings would be lost without a word."""
    template = ChatTemplate(
        "{% for m in messages %}{{ m.role | upper }}: {% for part in m.content | selectattr('type', 'equalto', 'text') %}"
        "{{ part.text }} {% endfor %}{% endfor %}{% if add_generation_prompt %}ASSISTANT:{% endif %}",
        {},
    )
    assert template.render([{"role": "user", "content": "What is it?"}]) == "USER: What is it? ASSISTANT:"
    parts = [{"type": "image"}, {"type": "text", "text": "And this?"}]
    assert template.render([{"role": "user", "content": parts}]) == "USER: And this? ASSISTANT:"
    plain = ChatTemplate("{% for m in messages %}[{{ m.content }}]{% endfor %}", {})
    assert plain.render([{"role": "user", "content": "What is it?"}]) == "[What is it?]"


def test_what_is_left_out_is_named(tmp_path: Path) -> None:
    """Once while it is read, and in the manifest."""
    write_multimodal(tmp_path / "model", multimodal_config("gemma3"))
    notes: list[str] = []
    options = ConvertOptions(bits=16)
    conversion = convert(
        tmp_path / "model", tmp_path / "out", options, lambda at: notes.append(at.note) if at.note else None
    )
    assert tuple(notes) == conversion.manifests[0].notes
    assert notes[0] == "the text model of a multimodal gemma3 is read, as model_type gemma3_text"
    assert [note.partition(", such as")[0] for note in notes[1:]] == [
        "left out: 2 tensor(s) of multi_modal_projector, beside the text model",
        f"left out: {len([n for n in load_file(tmp_path / 'model/model.safetensors') if n.startswith('vision')])} tensor(s) of "
        "vision_tower, beside the text model",
    ]
