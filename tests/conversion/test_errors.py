"""`convert` refuses every kind of wrong input in one or two lines, before it imports torch and before it writes a byte."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from checkpoint_writer import (
    random_weights,
    tiny_config,
    write_checkpoint,
)
from command_server import CommandServer
from damaged_checkpoint import Case

from ovround.artifact.manifest import FORMATS
from ovround.checkpoint.quantised import methods
from ovround.errors import MESSAGE_CHARACTERS, OvroundError
from ovround.models import known_types
from ovround.texts.files import SUFFIXES

FORMAT_NAMES = ", ".join(FORMATS)


def test_the_undamaged_checkpoint_is_accepted(case: Case) -> None:
    """This shows that every refusal below is caused by its damage."""
    result = case.convert("--recipe", "rtn", "--json")
    assert result.status == 0, result.stderr
    assert "torch" in result.modules
    assert (case.output_root / "out" / "ovround.json").is_file()


def test_a_message_that_quotes_too_much_is_cut_in_the_middle() -> None:
    long = str(OvroundError(f"`folder` is not valid: {'9' * 100_000}, expected usize"))
    assert len(long) < MESSAGE_CHARACTERS + 10
    assert long.startswith("`folder` is not valid: 999")
    assert long.endswith("99, expected usize")


# The model argument


def test_no_such_folder(case: Case) -> None:
    hint = "give a model folder, a GGUF file, a hub name such as org/model, or `demo`"
    for model in (case.output_root / "nothing", "a/b/c"):
        case.refused(f"`{model}` is not there", hint, model=model)
    case.refused("`no such model` is no folder and no hub name", hint, model="no such model")


def test_a_hub_name_without_a_hub(case: Case, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with CommandServer(
        tmp_path, ["ovround.conversion.convert"], {"HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path)}
    ) as offline:
        result = offline("convert", "ovround-tests/no-such-model", case.output_root / "out")
    first, hint = result.stderr.splitlines()
    assert first.startswith("error: `ovround-tests/no-such-model` is no local folder, and the hub did not give it: ")
    assert hint == "hint: check the network (and HF_HUB_OFFLINE, HF_ENDPOINT), or give a local folder"
    assert result.status == 1
    assert "torch" not in result.modules


def test_a_folder_that_is_no_checkpoint(case: Case) -> None:
    case.refused(
        f"`{case.output_root}` is empty",
        "a model's folder has config.json and weights; a name on the hub, such as HuggingFaceTB/SmolLM2-135M-Instruct, is downloaded",
        model=case.output_root,
    )


@pytest.mark.parametrize("pickled", ["pytorch_model.bin", None])
def test_no_weights(case: Case, pickled: str | None) -> None:
    (case.model / "model.safetensors").unlink()
    if pickled is None:
        missing = "has neither model.safetensors nor model.safetensors.index.json nor pytorch_model.bin"
        hint = "the weights are still to be copied or downloaded; a hub name, such as org/model, is downloaded whole"
        case.refused(f"`{case.model}` {missing}", hint)
        return
    (case.model / pickled).write_bytes(b"cos\nsystem\n(S'ls'\ntR.")
    hint = "get the model in safetensors, or from whoever made it: the file is damaged, or runs code when it is loaded"
    message = f"`{case.model / pickled}` cannot be read as tensors alone: it asks for `os.system`"
    case.refused(message, hint, torch=True)


def test_a_quantisation_that_cannot_be_read(case: Case) -> None:
    case.config(quantization_config={"quant_method": "hqq", "bits": 4})
    case.refused(
        f"`{case.model}` is quantised by `hqq` (quant_method), which cannot be read: its zero points are fractions",
        f"{', '.join(methods())} can be; or start from the original, unquantised checkpoint",
    )
    case.config(quantization_config="nf4")
    path = case.model / "config.json"
    case.refused(f"`{path}`: quantization_config is 'nf4'; an object is needed", None)


def test_a_converted_folder_is_no_checkpoint(case: Case, tiny_folders: dict[str, Path]) -> None:
    for engine, folder in tiny_folders.items():
        message = f"`{folder}` was written by ovround for {engine}"
        case.refused(message, "start from the original checkpoint", model=folder)


# config.json


@pytest.mark.parametrize("content", ["{", "[1, 2]", "", "[" * 100_000, '{"a": 1' + "0" * 5000 + "}"])
def test_a_config_that_is_no_json_object(case: Case, content: str) -> None:
    path = case.model / "config.json"
    path.write_text(content)
    result = case.convert()
    assert result.stderr.startswith((f"error: `{path}` cannot be read: ", f"error: `{path}` holds no JSON object"))
    assert (result.status, len(result.stderr.splitlines()) <= 2, "torch" in result.modules) == (1, True, False)
    assert list(case.output_root.iterdir()) == []


def test_an_unknown_architecture_names_the_way_out(case: Case) -> None:
    hint = (
        f"docs/reference/families.md lists the {len(known_types())} that it knows; any other: optimum-cli export openvino "
        "--weight-format fp16 --model MODEL FOLDER, then ovround convert FOLDER OUT, which compresses it with NNCF"
    )
    for family, near in (("mamba", "bamba"), ("decoder", ""), ("../llama", "llama"), (["llama"], "llama"), (7, "")):
        case.config(model_type=family)
        similar = f"; its name is near `{near}`" if near else ""
        case.refused(f"model_type `{family}` is not a family that ovround knows{similar}", hint)


ROPES = "supported rope types: default, linear, dynamic, llama3, yarn, longrope, proportional"
ACTIVATIONS = "supported activations: silu, swish, gelu, relu, gelu_new, gelu_pytorch_tanh, gelu_fast, relu2"
LLAMA3, LENGTH = {"rope_type": "llama3"}, "original_max_position_embeddings"


@pytest.mark.parametrize(
    ("changes", "message", "hint"),
    [
        ({"hidden_act": "quick_gelu"}, "hidden_act `quick_gelu` is not supported", ACTIVATIONS),
        ({"rope_scaling": {"type": "xpos", "factor": 2.0}}, "rope type `xpos` is not supported", ROPES),
        (
            {"partial_rotary_factor": 0.5, "rope_scaling": {"type": "linear", "factor": 2.0}},
            "partial_rotary_factor other than 1 is not supported for this family",
            None,
        ),
        ({"num_key_value_heads": 3}, "4 attention heads are no multiple of 3 key/value heads", None),
        ({"head_dim": 31}, "rope over 31 features (head_dim, partial_rotary_factor); an even number above 0 is needed", None),
        ({"head_dim": 10**400}, f"config.json: `head_dim` is 1{'0' * 39}; a whole number is needed", None),
        ({"hidden_size": None}, "config.json has no `hidden_size`", None),
        ({"hidden_size": "64"}, "config.json: `hidden_size` is '64'; a whole number is needed", None),
        ({"num_hidden_layers": 2.0}, "config.json: `num_hidden_layers` is 2.0; a whole number is needed", None),
        ({"intermediate_size": True}, "config.json: `intermediate_size` is True; a whole number is needed", None),
        ({"intermediate_size": -96}, "intermediate_size is -96; 1 to 2147483647 is allowed", None),
        ({"num_key_value_heads": 0}, "num_key_value_heads is 0; 1 to 2147483647 is allowed", None),
        ({"num_hidden_layers": 10**12}, "num_hidden_layers is 1000000000000; 1 to 10000 is allowed", None),
        ({"max_position_embeddings": 10**12}, "max_position_embeddings is 1000000000000; 1 to 16777216 is allowed", None),
        ({"rms_norm_eps": "1e-5"}, "config.json: `rms_norm_eps` is '1e-5'; a number is needed", None),
        ({"rms_norm_eps": float("nan")}, "config.json: `rms_norm_eps` is nan; a number is needed", None),
        ({"rope_theta": "ten"}, "config.json: `rope_theta` is 'ten'; a number is needed", None),
        ({"rope_theta": 0}, "rope_theta 0.0 and factor 1.0 must be above 0", None),
        ({"rope_theta": float("inf")}, "config.json: `rope_theta` is inf; a number is needed", None),
        ({"rope_scaling": [1]}, "rope_parameters is [1]; an object is needed", None),
        ({"rope_scaling": {"type": "linear", "factor": "2"}}, "config.json: `factor` is '2'; a number is needed", None),
        ({"rope_scaling": {**LLAMA3, "high_freq_factor": 1.0}}, "rope high_freq_factor 1.0 must be above low_freq_factor 1.0", None),
        ({"rope_scaling": {**LLAMA3, LENGTH: 8192.5}}, f"config.json: `{LENGTH}` is 8192.5; a whole number is needed", None),
    ],
)  # fmt: skip
def test_configs_that_cannot_be(case: Case, changes: dict[str, Any], message: str, hint: str | None) -> None:
    case.config(**changes)
    case.refused(message, hint)


def test_heads_that_onnx_runtime_refuses_are_refused_before_tuning(case: Case) -> None:
    config = tiny_config(head_dim=20)
    write_checkpoint(case.model, config)
    case.refused(
        "head_dim is 20; ONNX Runtime's attention needs a multiple of 8",
        "--format openvino takes any",
        *("--format", "onnx", "--layer", "o_proj=group_size:16"),
    )


# Text and tokenizer


NO_UTF8 = "'utf-8' codec can't decode byte 0xe9 in position 3: invalid continuation byte"
CUT = "`{}` line 2 is no JSON: Unterminated string starting at: line 1 column 10 (char 9)"
TOO_SHORT = "the calibration text gives 0 samples of 256 tokens; 144 are needed (128 to tune on, the rest held out)"


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("none.txt", None, "text file `{}` does not exist"),
        ("latin.txt", b"caf\xe9 ", f"text file `{{}}` cannot be read: {NO_UTF8}"),
        ("bad.jsonl", b'{"text": "one"}\n{"text": 1}\n', "`{}` line 2: `text` is 1, which is no string"),
        ("cut.jsonl", b'{"text": "one"}\n{"text": "tw', CUT),
        ("short.txt", b"far too short", TOO_SHORT),
        ("empty.jsonl", b"", TOO_SHORT),
    ],
)  # fmt: skip
def test_calibration_text(case: Case, name: str, content: bytes | None, message: str) -> None:
    path = case.output_root.parent / name
    if content is not None:
        path.write_bytes(content)
    hints = {"latin.txt": f"UTF-8 is needed; formats by ending: {', '.join(SUFFIXES)}, and .gz after it"}
    hints["empty.jsonl"] = hints["short.txt"] = "give more text, or a smaller --seqlen"
    case.refused(message.format(path), hints.get(name), "--calibration", path)


def test_a_missing_tokenizer(case: Case) -> None:
    (case.model / "tokenizer.json").unlink()
    message = "has no tokenizer.json, and no older tokenizer (tokenizer.model, vocab.json with merges.txt)"
    hint = "copy the tokenizer's files of the original model into it"
    case.refused(f"`{case.model}` {message}", hint)


@pytest.mark.parametrize("content", ["{", "[]", "{}", '{"model": {"type": "BPE"}}', "", "[" * 100_000])
def test_a_damaged_tokenizer(case: Case, content: str) -> None:
    path = case.model / "tokenizer.json"
    path.write_text(content)
    result = case.convert()
    lines = result.stderr.splitlines()
    assert lines[0].startswith(f"error: `{path}` ")
    assert lines[1:] == ["hint: download it again"]
    assert (result.status, "torch" in result.modules, list(case.output_root.iterdir())) == (1, False, [])


def test_a_tokenizer_of_another_model(case: Case) -> None:
    weights = random_weights(tiny_config(vocab_size=160))
    case.config(vocab_size=160)
    case.weights(**weights)
    result = case.convert()  # tuned on text, of which some tokens have no row
    error, hint = result.stderr.splitlines()
    assert error.startswith("error: the tokenizer gives token ")
    assert error.endswith("; the model has 160")
    assert hint == "hint: the text holds a token that the model lacks, or tokenizer.json belongs to another model"
    assert (result.status, list(case.output_root.iterdir()), "torch" in result.modules) == (1, [], False)
    result = case.convert("--recipe", "rtn")
    assert "beyond the 160 rows of the embedding: a prompt that holds such a token is refused" in result.stderr
    assert result.status == 0


@pytest.mark.parametrize("engine", ["openvino", "onnx"])
@pytest.mark.parametrize("name", ["tokenizer_config.json", "special_tokens_map.json"])
def test_damaged_settings_are_found_before_tuning(case: Case, name: str, engine: str) -> None:
    path = case.model / name
    path.write_text("{")
    result = case.convert("--format", engine)
    first, hint = result.stderr.splitlines()
    assert first.startswith(f"error: `{path}` cannot be read: ")
    assert hint == "hint: download it again"
    assert (result.status, "torch" in result.modules, list(case.output_root.iterdir())) == (1, False, [])


def test_a_tokenizer_that_openvino_cannot_have_is_found_before_tuning(
    case: Case, loaded_command: CommandServer
) -> None:
    """The runtime supports this pre-tokeniser, and openvino_tokenizers does not."""
    document = json.loads((case.model / "tokenizer.json").read_text())
    document["pre_tokenizer"] = {"type": "UnicodeScripts"}
    (case.model / "tokenizer.json").write_text(json.dumps(document))
    result = case.convert("--iters", "100000", "--nsamples", "8", "--seqlen", "32", by=loaded_command)
    lines = result.stderr.splitlines()
    assert lines[:1] == ["checking the checkpoint"]
    assert lines[1].startswith(f"error: the tokenizer of `{case.model}` cannot be converted for OpenVINO: ")
    assert (len(lines) <= 4, result.status, list(case.output_root.iterdir())) == (True, 1, [])


# Options


@pytest.mark.parametrize(
    ("options", "message", "hint"),
    [
        (("--bits", "5"), "bits is `5`; allowed: 2, 3, 4, 8, 16", "--bits 4"),
        (("--group-size", "48"), "group-size is `48`; allowed: 16, 32, 64, 128, 256, -1", None),
        (("--format", "openvno"), f"format is `openvno`; allowed: {FORMAT_NAMES}", "did you mean `openvino`?"),
        (("--recipe", "fast"), "recipe is `fast`; allowed: rtn, light, default, best", None),
        (("--seqlen", "4"), "seqlen is 4; 8 to 1000000 is allowed", None),
        (("--layer", "down_proj"), "layer rule `down_proj` is not REGEX=key:value", "example: 'down_proj=bits:8,group_size:32'"),
        (("--layer", "x_proj=bits:8"), "layer rule `x_proj` matches no module", "modules are named like `model.embed_tokens`"),
        (("--recipe", "rtn", "--iters", "5"), "recipe rtn does not tune, yet iters is 5", "leave out one of the two"),
        (
            ("--group-size", "64"), "group size 64 does not divide the 96 inputs of `model.layers.0.mlp.down_proj`",
            "--group-size 32 divides it, or --layer 'down_proj=group_size:-1' gives each of its rows one scale",
        ),
    ],
)  # fmt: skip
def test_options_that_cannot_be(case: Case, options: tuple[str, ...], message: str, hint: str | None) -> None:
    case.refused(message, hint, *options, status=2)


def test_a_sample_longer_than_the_context(case: Case) -> None:
    case.refused("seqlen is 257; the model has 256 positions", "--seqlen 256", "--seqlen", "257")


def test_several_mistakes_are_still_one_message(case: Case) -> None:
    (case.model / "model.safetensors").write_bytes(b"")
    (case.model / "tokenizer.json").unlink()
    assert len(case.convert("--calibration", "none.txt").stderr.splitlines()) == 2


def test_nothing_is_written_into_the_source(case: Case, loaded_command: CommandServer) -> None:
    before = {path.name: path.stat().st_mtime_ns for path in case.model.iterdir()}
    options = ("--recipe", "rtn", "--format", "onnx", "--format", "openvino")
    assert case.convert(*options, by=loaded_command).status == 0
    assert {path.name: path.stat().st_mtime_ns for path in case.model.iterdir()} == before
