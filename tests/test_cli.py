"""The command line: help, streams, exit statuses, JSON, and the whole way from convert to chat on the demo model."""

from __future__ import annotations

import hashlib
import json
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from command_server import CommandServer, Result, succeeded

import ovround
from ovround import LLM
from ovround.artifact.manifest import ENGINE_FORMATS, read_manifest
from ovround.checkpoint.locate import DEMO_FOLDER
from ovround.cli import app

COMMANDS = (
    "convert", "quantize", "check", "fit", "pull", "run", "chat", "serve", "eval", "bench", "profile", "inspect",
    "devices", "selftest", "demo", "cache",
)  # fmt: skip
HEAVY = {
    "torch",
    "transformers",
    "openvino",
    "openvino_genai",
    "onnxruntime",
    "onnx",
    "tokenizers",
    "huggingface_hub",
    "jinja2",
    "prompt_toolkit",
    "fastapi",
    "uvicorn",
    "llguidance",
}
PROMPT = "The with statement is used to"


@pytest.fixture(scope="session")
def light_command(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """The command line in a process that has imported nothing but it."""
    with CommandServer(tmp_path_factory.mktemp("commands")) as server:
        yield server


def parsed(result: Result) -> Any:
    """stdout, which must be one line of JSON."""
    out = succeeded(result)
    assert out.count("\n") == 1
    return json.loads(out)


# Help and usage


@pytest.mark.parametrize("words", [(), *((name,) for name in COMMANDS)], ids=["ovround", *COMMANDS])
def test_help_renders_without_heavy_imports(light_command: CommandServer, words: tuple[str, ...]) -> None:
    for option in ("--help", "-h"):
        result = light_command(*words, option)
        assert succeeded(result).startswith("Usage: ")
        assert result.stderr == ""
        assert not HEAVY & result.modules
    names = {(): COMMANDS, ("cache",): ("list", "remove", "prune", "--help")}.get(words, ("--help",))
    assert all(re.search(rf"^\s+(-\w, )?{name}\b", result.stdout, re.M) for name in names), result.stdout


def test_help_of_the_real_process() -> None:
    result = subprocess.run(
        [sys.executable, "-m", "ovround", "convert", "--help"], capture_output=True, text=True, check=True
    )
    assert "Quantise MODEL with SignRound" in result.stdout
    assert result.stderr == ""


def test_the_commands_are_these(light_command: CommandServer) -> None:
    listed = succeeded(light_command("--help")).partition("Commands:\n")[2].partition("\n\n")[0]
    assert tuple(re.findall(r"^  (\w+)", listed, re.M)) == COMMANDS
    assert "..." not in listed


def test_dir_shows_the_public_names() -> None:
    assert set(dir(ovround)) == {*ovround.__all__, "__version__"}
    assert all(getattr(ovround, name) is not None for name in dir(ovround))


def test_no_command_shows_help_and_is_wrong_usage(light_command: CommandServer) -> None:
    result = light_command()
    assert result.status == 2
    assert "Commands:" in result.stdout + result.stderr


def test_version(light_command: CommandServer) -> None:
    assert succeeded(light_command("--version")) == f"ovround {ovround.__version__}\n"


@pytest.mark.parametrize(
    "words",
    [
        ("convert", "demo", "out", "--bitz", "4"),
        ("convert", "demo"),
        ("convert", "demo", "out", "--nsamples", "four"),
        ("run",),
        ("frobnicate",),
        ("devices", "extra"),
        ("--frobnicate",),
    ],
    ids=" ".join,
)
def test_wrong_usage(light_command: CommandServer, words: tuple[str, ...]) -> None:
    result = light_command(*words)
    assert (result.status, result.stdout) == (2, "")
    assert result.stderr.startswith("Usage: ")
    assert len(result.stderr.splitlines()) <= 4
    assert not HEAVY & result.modules


def test_every_option_of_convert_is_an_option_in_python() -> None:
    """One option, one field: what decides the bytes, among what the help lists, is a field of ConvertOptions."""
    import dataclasses
    import inspect

    from ovround.cli import convert
    from ovround.options.convert_options import ConvertOptions

    parameters = set(inspect.signature(convert.command).parameters) - {
        "model",
        "out",
        "json",
        "quiet",
        "memory_limit",
        "tuning_time",  # it chooses options
    }
    renamed = {"format": "formats", "layer": "layers"}
    assert {renamed.get(name, name) for name in parameters} == {
        field.name for field in dataclasses.fields(ConvertOptions)
    }


def test_debug_shows_the_traceback(light_command: CommandServer, tmp_path: Path) -> None:
    result = light_command("--debug", "inspect", tmp_path / "nothing")
    assert result.status == 1
    assert "Traceback" in result.stderr
    assert "ovround.errors.CheckpointError" in result.stderr


# Convert


def test_convert_writes_a_folder_a_format_and_says_where(converted: tuple[Path, Result]) -> None:
    out, result = converted
    lines = succeeded(result).splitlines()
    assert [line.partition(":")[0] for line in lines[:2]] == [str(out / format_name) for format_name in ENGINE_FORMATS]
    assert re.fullmatch(r".*: openvino, \d+\.\d\d MB, \d+\.\d s", lines[0])
    assert lines[2].startswith("held-out calibration text: perplexity ")
    assert len(lines) == 3
    said = result.stderr.splitlines()
    assert said[0] == "checking the checkpoint"
    assert sum(line.startswith("block ") for line in said) == 6
    assert said[-4:] == ["writing", "reading back"] * 2
    assert sorted(path.name for path in out.iterdir()) == sorted(ENGINE_FORMATS)


def test_convert_json_and_quiet(loaded_command: CommandServer, tiny_source: Path, tmp_path: Path) -> None:
    options = ("--recipe", "rtn", "--group-size", "32", "--json", "--quiet")
    result = loaded_command("convert", tiny_source, tmp_path / "out", *options)
    document = parsed(result)
    assert result.stderr == ""
    assert set(document) == {
        "folders", "elapsed_s", "weight_bytes", "quality", "plan", "budget", "blocks", "notes", "source_way", "source_types",
        "samples",
    }  # fmt: skip
    assert document["folders"] == [str(tmp_path / "out")]
    assert (document["quality"], document["blocks"]) == (None, [])
    weights = read_manifest(tmp_path / "out").weights
    assert document["weight_bytes"] == sum(weight.size_bytes for weight in weights)


def test_both_manifests_describe_the_same_weights(converted: tuple[Path, Result]) -> None:
    out, _ = converted
    openvino, onnx = (read_manifest(out / format_name) for format_name in ENGINE_FORMATS)
    assert openvino.weights == onnx.weights
    assert (openvino.blocks, openvino.quality, openvino.source_files) == (onnx.blocks, onnx.quality, onnx.source_files)
    assert (openvino.format, onnx.format) == ENGINE_FORMATS
    assert len(openvino.blocks) == 6
    assert all(block.loss_after <= block.loss_before and block.steps == 12 for block in openvino.blocks)
    assert sum(block.loss_after < block.loss_before for block in openvino.blocks) >= 3


def digests(folder: Path) -> dict[str, str]:
    files = (path for path in sorted(folder.rglob("*")) if path.is_file())
    return {path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def test_two_converts_give_identical_bytes(
    converted: tuple[Path, Result], loaded_command: CommandServer, tmp_path: Path, tuning: tuple[str, ...]
) -> None:
    """In another process, another folder, and under another name."""
    out, _ = converted
    again = tmp_path / "elsewhere" / "other"
    succeeded(loaded_command("convert", "demo", again, *tuning, "--format", "openvino", "--format", "onnx"))
    assert digests(again) == digests(out)
    assert len(digests(out)) > 20


def test_two_converts_in_one_process_give_identical_bytes(tiny_source: Path, tmp_path: Path) -> None:
    options = ovround.ConvertOptions(formats=ENGINE_FORMATS, recipe="rtn", group_size=32)
    for name in ("a", "b"):
        ovround.convert(tiny_source, tmp_path / name, options)
    assert digests(tmp_path / "a") == digests(tmp_path / "b")


@pytest.mark.slow
def test_formats_together_or_alone_give_the_same_bytes(
    converted: tuple[Path, Result], loaded_command: CommandServer, tmp_path: Path, tuning: tuple[str, ...]
) -> None:
    out, _ = converted
    for format_name in ENGINE_FORMATS:
        succeeded(loaded_command("convert", "demo", tmp_path / format_name, *tuning, "--format", format_name))
        assert digests(tmp_path / format_name) == digests(out / format_name)


@pytest.mark.slow
def test_another_seed_or_option_gives_other_weights(
    converted: tuple[Path, Result], loaded_command: CommandServer, tmp_path: Path, tuning: tuple[str, ...]
) -> None:
    out, _ = converted
    weights = [weight.sha256 for weight in read_manifest(out / "onnx").weights]
    for option in (("--seed", "43"), ("--iters", "11"), ("--sym",)):
        succeeded(loaded_command("convert", "demo", tmp_path / option[0], *tuning, *option, "--format", "onnx"))
        assert [weight.sha256 for weight in read_manifest(tmp_path / option[0]).weights] != weights, option


# Inspect, eval, run, chat, bench


def test_inspect_a_checkpoint(command: CommandServer) -> None:
    result = command("inspect", "demo")
    lines = succeeded(result).splitlines()
    assert "model_type llama, can be converted" in lines[0]
    assert "torch" not in result.modules
    document = parsed(command("inspect", "demo", "--json"))
    assert document["supported"] is True
    assert lines[-1].startswith(f"{len(document['tensors'])} tensors in 1 file(s)")
    assert document["tensors"]["model.norm.weight"] == {"dtype": "F16", "shape": [128]}


def test_inspect_a_converted_folder(converted: tuple[Path, Result], command: CommandServer) -> None:
    out, _ = converted
    for format_name in ENGINE_FORMATS:
        manifest = read_manifest(out / format_name)
        lines = succeeded(command("inspect", out / format_name, "--check", "--all")).splitlines()
        assert f"llama from demo, for {format_name}, ovround {ovround.__version__}" in lines[0]
        assert lines[-1].startswith(f"{len(manifest.weights)} weights")
        assert lines[-1].endswith("files match the manifest")
        listed = [line.split()[0] for line in lines[3:-1]]
        assert listed == [weight.name for weight in manifest.weights]
        grouped = succeeded(command("inspect", out / format_name)).splitlines()
        first = next(line.split() for line in grouped if line.startswith("model.layers.[0-5].mlp.up_proj.weight "))
        size = sum(weight.size_bytes for weight in manifest.weights if weight.name.endswith(".up_proj.weight"))
        assert first[1:6] == ["384x128", "3", "64", "asym", f"{size / 1e6:.2f}"]
        assert len(grouped) < 20 < len(lines)
        document = parsed(command("inspect", out / format_name, "--json"))
        assert document == json.loads((out / format_name / "ovround.json").read_text())


def test_inspect_a_folder_of_folders_says_which(converted: tuple[Path, Result], command: CommandServer) -> None:
    out, _ = converted
    result = command("inspect", out)
    assert result.stderr == f"error: `{out}` holds 2 converted folders\nhint: ovround inspect {out / 'onnx'}\n"
    assert (result.status, result.stdout) == (2, "")


def test_inspect_check_of_a_checkpoint_is_wrong_usage(command: CommandServer, tiny_source: Path) -> None:
    result = command("inspect", tiny_source, "--check")
    assert result.stderr.splitlines()[0] == f"error: `{tiny_source}` has no ovround.json to check against"
    assert result.status == 2


@pytest.fixture(scope="session")
def held_out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from ovround.checkpoint.locate import DEMO_FOLDER

    path = tmp_path_factory.mktemp("held") / "out.txt"
    path.write_text((DEMO_FOLDER / "heldout.txt").read_text(encoding="utf-8")[:6000], encoding="utf-8")
    return path


def test_eval(converted: tuple[Path, Result], loaded_command: CommandServer, held_out: Path) -> None:
    out, _ = converted
    settings = ("--text", held_out, "--context", "64", "--json")
    (original,) = parsed(loaded_command("eval", "demo", *settings))["texts"]
    assert (original["kl_nats"], original["reference_perplexity"]) == (None, None)
    scores = []
    for format_name in ENGINE_FORMATS:
        document = parsed(loaded_command("eval", out / format_name, *settings, "--reference", "demo"))
        assert document["mode"] == "exact"
        (score,) = document["texts"]
        scores.append(score)
        assert score["tokens"] == original["tokens"]
        assert score["reference_perplexity"] == pytest.approx(original["perplexity"], rel=1e-12)
        assert 0 < score["kl_nats"] < 1
        assert 0.5 < score["top1_agreement"] < 1
        assert score["reference_accuracy"] == original["accuracy"]
        assert 0 < score["accuracy"] < score["top1_agreement"]
    # two engines, float32 both: logits agree to 1e-5
    assert scores[0]["perplexity"] == pytest.approx(scores[1]["perplexity"], rel=1e-4)
    table = succeeded(loaded_command("eval", out / "onnx", *settings[:-1], "--reference", "demo")).splitlines()
    assert table[0].split() == [
        "text", "tokens", "perplexity", "accuracy", "reference", "change", "accuracy", "kept", "KL", "nats", "top-1", "agrees",
    ]  # fmt: skip
    assert f"{scores[1]['perplexity']:.4f}" in table[2]


def test_eval_of_a_model_against_itself_is_without_difference(loaded_command: CommandServer, held_out: Path) -> None:
    settings = ("--text", held_out, "--context", "64", "--json", "--reference", "demo")
    (score,) = parsed(loaded_command("eval", "demo", *settings))["texts"]
    assert (score["kl_nats"], score["top1_agreement"]) == (0.0, 1.0)
    assert score["perplexity"] == score["reference_perplexity"]


def test_run(converted: tuple[Path, Result], loaded_command: CommandServer) -> None:
    out, _ = converted
    for format_name in ENGINE_FORMATS:
        options = ("--max-new-tokens", "12", "--exact", "--raw")
        result = loaded_command("run", out / format_name, PROMPT, *options)
        text = succeeded(result)
        assert re.fullmatch(r"12 tokens, first after \d+ ms, \d+\.\d tokens/s\n", result.stderr)
        document = parsed(loaded_command("run", out / format_name, "-", *options, "--json", stdin=PROMPT))
        assert text == document["text"] + "\n"
        assert document["usage"]["completion_tokens"] == len(document["token_ids"]) == 12
        assert document["finish_reason"] == "length"


def test_run_applies_the_chat_template_unless_told_not_to(
    converted: tuple[Path, Result], loaded_command: CommandServer
) -> None:
    folder = converted[0] / "onnx"
    options = ("--max-new-tokens", "8", "--exact", "--json")
    rendered = f"<s>### User\n{PROMPT}\n\n### Assistant\n"

    def answer(*words: str) -> tuple[int, list[int], str, str]:
        result = loaded_command("run", folder, *words, *options)
        document = parsed(result)
        return document["usage"]["prompt_tokens"], document["token_ids"], document["prompt_format"], result.stderr

    with LLM(folder, exact=True) as llm:
        user, system = {"role": "user", "content": PROMPT}, {"role": "system", "content": "Be brief."}
        completions = (
            llm.generate(PROMPT, max_new_tokens=8), llm.chat([user], max_new_tokens=8),
            llm.chat([system, user], max_new_tokens=8),
            llm.generate(llm.tokenizer.encode(rendered, add_special_tokens=False), max_new_tokens=8),
        )  # fmt: skip
    plain, chat, with_system, as_it_stands = ((one.usage.prompt_tokens, list(one.token_ids)) for one in completions)
    assert plain[0] < chat[0] < with_system[0]
    assert as_it_stands == chat
    assert answer(PROMPT) == (*chat, "chat_template", "")
    assert answer(PROMPT, "--raw") == (*plain, "raw", "")
    assert answer(PROMPT, "--system", "Be brief.") == (*with_system, "chat_template", "")
    for prompt, mark in ((rendered, "<s>"), (rendered.removeprefix("<s>"), "### User")):
        said = f"the prompt has `{mark}`, as the model's chat template writes it, so it is taken as it stands, as with --raw\n"
        assert answer(prompt) == (*as_it_stands, "own_template", said)


@pytest.fixture(scope="module")
def base_model(tmp_path_factory: pytest.TempPathFactory, loaded_command: CommandServer) -> Path:
    """The demo model without its chat template."""
    folder = tmp_path_factory.mktemp("base")
    source = folder / "model"
    shutil.copytree(DEMO_FOLDER, source)
    settings = json.loads((source / "tokenizer_config.json").read_text())
    del settings["chat_template"]
    (source / "tokenizer_config.json").write_text(json.dumps(settings))
    convert = ("convert", source, folder / "out", "--recipe", "rtn", "--group-size", "64", "--format", "onnx")
    succeeded(loaded_command(*convert))
    return folder / "out"


def test_a_base_model_continues_the_text_of_run(base_model: Path, loaded_command: CommandServer) -> None:
    options = ("--max-new-tokens", "8", "--exact", "--json")
    documents = [parsed(loaded_command("run", base_model, PROMPT, *options, *raw)) for raw in ((), ("--raw",))]
    assert documents[0]["token_ids"] == documents[1]["token_ids"]
    assert [document["prompt_format"] for document in documents] == ["base_model", "raw"]
    refused = loaded_command("run", base_model, PROMPT, "--system", "Be brief.")
    assert refused.stderr.splitlines() == [
        "error: system-prompt is given, yet the model has no chat template", "hint: leave it out"
    ]  # fmt: skip
    assert refused.status == 2


def test_chat_with_a_base_model_says_how_it_writes_the_conversation(
    base_model: Path, loaded_command: CommandServer
) -> None:
    options = ("--max-new-tokens", "4", "--system", "A talk.", "--show-prompt")
    result = loaded_command("chat", base_model, *options, stdin="What is a list?\n/history\nAnd a dict?\n")
    text = succeeded(result)
    lines = result.stderr.splitlines()
    assert lines[:2] == [
        "this model has no chat template, as a base model: the conversation is written as a text that it continues,",
        "with lines `User: ...` and `Assistant: ...`; an answer ends before the next `User:` (--show-prompt shows the text)",
    ]
    assert lines[2:5] == ["A talk.", "User: What is a list?", "Assistant:"]
    answer = re.search(r"\[assistant\] (.*?)\n", text)
    assert answer is not None
    assert "User: What is a list?\nAssistant: " in result.stderr
    assert "And a dict?\nAssistant:" in result.stderr


def test_run_draws_with_a_seed(converted: tuple[Path, Result], loaded_command: CommandServer) -> None:
    out, _ = converted
    options = ("--max-new-tokens", "16", "--temperature", "1.5", "--seed")
    texts = [succeeded(loaded_command("run", out / "onnx", PROMPT, *options, seed)) for seed in (1, 1, 2)]
    assert texts[0] == texts[1] != texts[2]


def test_chat(converted: tuple[Path, Result], loaded_command: CommandServer) -> None:
    out, _ = converted
    lines = "What is a list?\n\nAnd a dict?\n/reset\nWhat is a list?\n/exit\nnever answered\n"
    result = loaded_command("chat", out / "onnx", "--max-new-tokens", "8", "--show-prompt", stdin=lines)
    succeeded(result)
    prompts = result.stderr.split("### User\n")
    assert [prompt.split("\n")[0] for prompt in prompts[1:]] == [
        "What is a list?", "What is a list?", "And a dict?", "What is a list?",
    ]  # fmt: skip
    assert "never answered" not in result.stderr + result.stdout


def test_chat_commands(converted: tuple[Path, Result], loaded_command: CommandServer, tmp_path: Path) -> None:
    out, _ = converted
    saved = tmp_path / "chat.json"
    lines = f"/help\n/system Be brief.\nWhat is a list?\nAnd a dict?\n/save {saved}\n/history\n/system\n/history\n"
    result = loaded_command("chat", out / "openvino", "--max-new-tokens", "8", "--prompt-lookup", stdin=lines)
    text = succeeded(result)
    messages = json.loads(saved.read_text(encoding="utf-8"))["messages"]
    assert [message["role"] for message in messages] == ["system", "user", "assistant", "user", "assistant"]
    assert messages[0]["content"] == "Be brief."
    assert text.count("[user] ") == 2  # the second history is empty
    assert f"[assistant] {messages[2]['content']}" in text
    assert len(re.findall(r"^\d+ tokens, first after \d+ ms", result.stderr, re.M)) == 2
    assert re.search(r"\d+ of \d+ prompt tokens from the cache", result.stderr)
    assert "/save FILE" in result.stderr
    for line, message in (
        ("/fly", "`/fly` is no command"),
        ("/save", "needs the name"),
        ("a\n/save /no/where", "cannot be written"),
    ):
        refused = loaded_command("chat", out / "onnx", stdin=line + "\n")
        assert refused.status == 2
        assert message in refused.stderr


def test_run_keeps_a_form(converted: tuple[Path, Result], loaded_command: CommandServer, tmp_path: Path) -> None:
    out, _ = converted
    schema = tmp_path / "schema.json"
    schema.write_text('{"enum": ["red", "green"]}')
    assert re.fullmatch("[ab]{3}\n", succeeded(loaded_command("run", out / "onnx", PROMPT, "--regex", "[ab]{3}")))
    answer = succeeded(loaded_command("run", out / "openvino", PROMPT, "--json-schema", schema))
    assert json.loads(answer) in ("red", "green")
    assert succeeded(loaded_command("run", out / "onnx", PROMPT, "--num-beams", "3", "--max-new-tokens", "8"))
    both = loaded_command("run", out / "onnx", PROMPT, "--regex", "a", "--json-schema", schema)
    assert (both.status, "one form" in both.stderr) == (2, True)
    missing = loaded_command("run", out / "onnx", PROMPT, "--json-schema", tmp_path / "none")
    assert (missing.status, "cannot be read" in missing.stderr) == (2, True)


def test_bench(tiny_folders: dict[str, Path], loaded_command: CommandServer) -> None:
    for format_name in ENGINE_FORMATS:
        options = ("--prompt-tokens", "8", "--new-tokens", "4", "--repeat", "2", "--threads", "1")
        document = parsed(loaded_command("bench", tiny_folders[format_name], *options, "--json"))
        assert (document["prompt_tokens"], document["new_tokens"], document["repeat"]) == (8, 4, 2)
        assert document["tokens_per_s"] > 0
        assert document["time_to_first_token_p90_s"] >= document["time_to_first_token_median_s"] > 0


def test_bench_table(tiny_folders: dict[str, Path], loaded_command: CommandServer) -> None:
    options = ("--prompt-tokens", "8", "--new-tokens", "4", "--repeat", "1", "--threads", "1")
    lines = succeeded(loaded_command("bench", tiny_folders["onnx"], *options)).splitlines()
    assert lines[1].split() == ["measure", "median", "p90"]
    assert [line.split("  ")[0] for line in lines[3:7]] == [
        "load", "time to first token", "time per output token", "tokens/s"
    ]  # fmt: skip


def test_devices(loaded_command: CommandServer) -> None:
    document = parsed(loaded_command("devices", "--json"))
    assert document["ovround"] == ovround.__version__
    engines = {(device["engine"], device["device"]) for device in document["devices"] if device["available"]}
    assert {("OpenVINO", "CPU"), ("ONNX Runtime", "CPU")} <= engines
    assert succeeded(loaded_command("devices")).startswith(f"ovround {ovround.__version__}\n")


@pytest.mark.parametrize("name", ["run", "bench", "chat", "serve"])
def test_a_folder_that_cannot_be_run(command: CommandServer, tmp_path: Path, name: str) -> None:
    prompt = {"run": ("hello",), "serve": ("--port", "0")}.get(name, ())
    for folder, message in (
        (tmp_path / "none", f"`{tmp_path / 'none'}` is not there"),
        (tmp_path, f"`{tmp_path}` is empty"),
    ):
        result = command(name, folder, *prompt)
        assert result.stderr.splitlines()[0] == f"error: {message}"
        assert (result.status, result.stdout) == (1, "")
        assert not {"torch", "transformers"} & result.modules


def test_results_go_to_a_closed_pipe_quietly(tmp_path: Path) -> None:
    """`ovround inspect demo | head -1`."""
    command = f"{shlex.quote(sys.executable)} -m ovround inspect demo --json | head -c 10"
    result = subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=True, cwd=tmp_path)
    assert len(result.stdout) == 10
    assert "Traceback" not in result.stderr


def test_every_command_is_its_files_name() -> None:
    registered = [info.name for info in (*app.app.registered_commands, *app.app.registered_groups)]
    assert tuple(registered) == COMMANDS


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full")
def test_a_full_disk_is_a_failure() -> None:
    with Path("/dev/full").open("w") as full:
        command = [sys.executable, "-m", "ovround", "--help"]
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, check=False)
    assert (done.returncode, done.stderr) == (1, "error: output cannot be written: No space left on device\n")
