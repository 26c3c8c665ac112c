"""Which files hold a checkpoint's weights: names of older tools, files of torch, and what the hub is asked for."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from checkpoint_writer import random_weights, tiny_config, write_checkpoint, write_safetensors
from hub_server import HubServer
from quantised_folder import quantised_folder
from random_model import logits_of, relative_rms, write_random_model
from safetensors.torch import load_file, save_file

from ovround.artifact.manifest import ENGINE_FORMATS
from ovround.checkpoint.files.weight_files import weight_files
from ovround.checkpoint.hf import open_folder
from ovround.conversion.convert import convert
from ovround.conversion.preparation import prepare
from ovround.errors import CheckpointError, TensorError
from ovround.options.convert_options import ConvertOptions
from ovround.runtime.engines import open_engine

OPTIONS = ConvertOptions(formats=("onnx",), recipe="rtn", group_size=32)
TOLERANCE = 2e-5  # as in test_families
IDS = np.random.default_rng(5).integers(3, 320, (2, 40))
Tensors = dict[str, torch.Tensor]


def digests(folder: Path, out: Path, options: ConvertOptions = OPTIONS) -> dict[str, str]:
    return {record.name: record.sha256 for record in convert(folder, out, options).manifests[0].weights}


def as_pickled(source: Path, folder: Path, save: Callable[[Tensors, Path], None]) -> Path:
    """A copy of a checkpoint whose weights `save` writes."""
    shutil.copytree(source, folder)
    tensors = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    save(tensors, folder)
    return folder


def single(tensors: Tensors, folder: Path) -> None:
    torch.save(tensors, folder / "pytorch_model.bin")


def legacy(tensors: Tensors, folder: Path) -> None:
    torch.save(tensors, folder / "pytorch_model.bin", _use_new_zipfile_serialization=False)


def sharded(tensors: Tensors, folder: Path) -> None:
    weight_map = {}
    for shard in range(3):
        name = f"pytorch_model-{shard + 1:05d}-of-00003.bin"
        part = {key: tensors[key] for key in sorted(tensors)[shard::3]}
        torch.save(part, folder / name, _use_new_zipfile_serialization=shard != 1)
        weight_map |= dict.fromkeys(part, name)
    (folder / "pytorch_model.bin.index.json").write_text(json.dumps({"weight_map": weight_map}))


def as_views(tensors: Tensors, folder: Path) -> None:
    """Transposed, in one storage with other values, or a parameter: what a state dict may hold."""
    stored: dict[str, Any] = {}
    for name, tensor in tensors.items():
        padded = torch.cat([torch.full_like(tensor[:1], 7.0), tensor])[1:]
        stored[name] = padded.T.contiguous().T if tensor.ndim == 2 else torch.nn.Parameter(padded)
    torch.save(stored, folder / "pytorch_model.bin")


@pytest.mark.parametrize("save", [single, legacy, sharded, as_views])
@pytest.mark.parametrize("dtype", ["F32", "BF16", "F16"])
def test_files_of_torch_hold_the_same_weights(tmp_path: Path, save: Callable[..., None], dtype: str) -> None:
    source = write_checkpoint(tmp_path / "source", dtype=dtype)
    folder = as_pickled(source, tmp_path / "model", save)
    assert digests(folder, tmp_path / "a") == digests(source, tmp_path / "b")
    notes = prepare(str(folder), tmp_path / "c", OPTIONS).notes
    assert [note for note in notes if "held in memory as a whole" in note] == list(notes)
    assert bool(notes) == (save in (legacy, sharded))


def test_both_engines_compute_what_transformers_computes_from_the_file(tmp_path: Path) -> None:
    """Doubles too, which transformers rounds to float32."""
    write_random_model(tmp_path / "model", tiny_config())
    tensors = load_file(tmp_path / "model" / "model.safetensors")
    (tmp_path / "model" / "model.safetensors").unlink()
    wide = {name: tensor.double() * (1 + 1e-12) if tensor.ndim == 2 else tensor for name, tensor in tensors.items()}
    torch.save(wide, tmp_path / "model" / "pytorch_model.bin")
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(
        tmp_path / "model", dtype=torch.float32, attn_implementation="eager"
    ).eval()
    for out in convert(tmp_path / "model", tmp_path / "out", ConvertOptions(formats=ENGINE_FORMATS, bits=16)).folders:
        engine = open_engine(out, exact=True, threads=1)
        assert relative_rms(engine.logits(IDS), logits_of(model, IDS)) <= TOLERANCE, out.name
        engine.close()


def test_doubles_are_read_as_float32(tmp_path: Path) -> None:
    weights = random_weights(tiny_config())
    source = write_checkpoint(tmp_path / "source", weights=weights)
    folder = write_checkpoint(tmp_path / "model", weights=weights)
    write_safetensors(
        folder / "model.safetensors",
        {name: ("F64", part.shape, part.astype("<f8").tobytes()) for name, part in weights.items()},
    )
    assert digests(folder, tmp_path / "a") == digests(source, tmp_path / "b")
    assert {info.dtype for info in open_folder(folder).tensors().values()} == {"F32"}
    huge = weights["model.norm.weight"].astype("<f8") * 1e39
    write_safetensors(
        folder / "model.safetensors",
        {
            name: ("F64", part.shape, (huge if name == "model.norm.weight" else part.astype("<f8")).tobytes())
            for name, part in weights.items()
        },
    )
    with pytest.raises(TensorError, match=r"`model\.norm\.weight` in .* holds NaN or infinity"):
        open_folder(folder).scan()


@pytest.mark.parametrize("nan", [float("nan"), float("inf")])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_nan_in_a_file_of_torch_is_named(tmp_path: Path, nan: float, dtype: torch.dtype) -> None:
    def spoilt(tensors: Tensors, folder: Path) -> None:
        tensors["model.norm.weight"] = tensors["model.norm.weight"].to(dtype)
        tensors["model.norm.weight"][3] = nan
        single(tensors, folder)

    folder = as_pickled(write_checkpoint(tmp_path / "source"), tmp_path / "model", spoilt)
    with pytest.raises(TensorError, match=r"`model\.norm\.weight` in .*pytorch_model\.bin` holds NaN or infinity"):
        convert(folder, tmp_path / "out", OPTIONS)


class Executed:
    """Pickled, it asks to run code."""

    def __init__(self, canary: Path) -> None:
        self.canary = canary

    def __reduce__(self) -> Any:
        return exec, (f"open({str(self.canary)!r}, 'w').close()",)


@pytest.mark.parametrize("zipped", [True, False])
def test_a_file_that_runs_code_is_refused_unrun(tmp_path: Path, zipped: bool) -> None:
    canary = tmp_path / "canary"

    def evil(tensors: Tensors, folder: Path) -> None:
        content = {**tensors, "model.norm.weight": Executed(canary)}
        torch.save(content, folder / "pytorch_model.bin", _use_new_zipfile_serialization=zipped)

    folder = as_pickled(write_checkpoint(tmp_path / "source"), tmp_path / "model", evil)
    with pytest.raises(CheckpointError, match=r"cannot be read as tensors alone: it asks for `\w*\.?exec`"):
        convert(folder, tmp_path / "out", OPTIONS)
    assert not canary.exists()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "cannot be read as tensors alone: EOFError"),
        (b"\x80\x04.", "cannot be read as tensors alone: "),
        (b"PK\x03\x04" + bytes(40), "cannot be read as tensors alone: PytorchStreamReader"),
        ([torch.ones(2)], "holds a list; a dictionary of tensors by name is needed"),
        ({"state_dict": {"a": torch.ones(2)}}, "holds a dictionary under `state_dict`"),
    ],
)
def test_files_of_torch_that_hold_something_else(tmp_path: Path, content: Any, message: str) -> None:
    folder = write_checkpoint(tmp_path / "model")
    (folder / "model.safetensors").unlink()
    if isinstance(content, bytes):
        (folder / "pytorch_model.bin").write_bytes(content)
    else:
        torch.save(content, folder / "pytorch_model.bin")
    with pytest.raises(CheckpointError) as caught:
        prepare(str(folder), tmp_path / "out", OPTIONS)
    assert message in str(caught.value)


def test_a_cut_file_of_torch_is_refused(tmp_path: Path) -> None:
    folder = as_pickled(write_checkpoint(tmp_path / "source"), tmp_path / "model", single)
    content = (folder / "pytorch_model.bin").read_bytes()
    for size in range(0, len(content), len(content) // 23):
        (folder / "pytorch_model.bin").write_bytes(content[:size])
        with pytest.raises(CheckpointError, match=r"pytorch_model\.bin` cannot be read"):
            prepare(str(folder), tmp_path / "out", OPTIONS)


# Names


def old_gptq(tmp_path: Path, **changes: Any) -> tuple[Path, Path]:
    """A GPTQ folder as AutoGPTQ wrote it, settings in quantize_config.json alone, and the same as it is written today."""
    today = quantised_folder(tmp_path, {})
    folder = shutil.copytree(today, tmp_path / "old")
    config = json.loads((folder / "config.json").read_text())
    settings = {key: value for key, value in config.pop("quantization_config").items() if key != "quant_method"}
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "ovround.json").unlink(missing_ok=True)
    settings |= {"model_file_base_name": "gptq_model-4bit-64g", "model_name_or_path": None, **changes}
    (folder / "quantize_config.json").write_text(json.dumps(settings))
    return folder, today


@pytest.mark.parametrize("stated", ["gptq_model-4bit-64g", None])
@pytest.mark.parametrize("kind", ["safetensors", "bin", "sharded"])
def test_names_of_autogptq_are_found(tmp_path: Path, stated: str | None, kind: str) -> None:
    folder, today = old_gptq(tmp_path, model_file_base_name=stated)
    file = (folder / "model.safetensors").rename(folder / "gptq_model-4bit-64g.safetensors")
    tensors = load_file(file)
    if kind == "bin":
        file.unlink()
        torch.save(tensors, file.with_suffix(".bin"))
    if kind == "sharded":
        file.unlink()
        names = sorted(tensors)
        for shard in range(2):
            part = {name: tensors[name] for name in names[shard::2]}
            save_file(part, folder / f"gptq_model-4bit-64g-{shard + 1:05d}-of-00002.safetensors")
    if kind == "bin" and stated is None:
        with pytest.raises(CheckpointError, match=r"; it has gptq_model-4bit-64g\.bin"):
            prepare(str(folder), tmp_path / "out", ConvertOptions())
        return
    plain = ConvertOptions(formats=("onnx",))
    assert digests(folder, tmp_path / "a", plain) == digests(today, tmp_path / "b", plain)


def names_of(folder: Path, *files: str, config: Mapping[str, Any] | None = None) -> list[str]:
    for path in folder.iterdir():
        path.unlink()
    for name in files:
        (folder / name).write_text("{}")
    return [path.name for path in weight_files(folder, config or {})]


def test_transformers_own_order_goes_first(tmp_path: Path) -> None:
    both = ("model.safetensors", "model-00001-of-00002.safetensors", "pytorch_model.bin")
    assert names_of(tmp_path, *both) == ["model.safetensors"]
    assert names_of(tmp_path, "pytorch_model.bin", "other.safetensors") == ["pytorch_model.bin"]
    assert names_of(tmp_path, "adapter_model.safetensors", "fp16.safetensors") == ["fp16.safetensors"]
    stated = {"quantization_config": {"model_file_base_name": "b"}}
    assert names_of(tmp_path, "a.safetensors", "b.safetensors", config=stated) == ["b.safetensors"]
    assert names_of(tmp_path, "m-00001-of-00001.safetensors") == ["m-00001-of-00001.safetensors"]
    shards = [f"m-{shard:05d}-of-00003.safetensors" for shard in (1, 2, 3)]
    assert names_of(tmp_path, *shards) == shards


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ([], "has neither model.safetensors nor model.safetensors.index.json nor pytorch_model.bin"),
        (["adapter_model.safetensors"], "has neither"),
        (["a.safetensors", "b.safetensors"], "; it has a.safetensors, b.safetensors"),
        (["training_args.bin", "consolidated.00.pth"], "; it has consolidated.00.pth, training_args.bin"),
        (["m-00001-of-00003.safetensors", "m-00003-of-00003.safetensors"], "has 2 of 3 shards; number 2 is missing"),
    ],
)
def test_unclear_names_are_refused(tmp_path: Path, files: list[str], message: str) -> None:
    with pytest.raises(CheckpointError) as caught:
        names_of(tmp_path, *files)
    assert message in str(caught.value)


# The hub


@pytest.mark.parametrize("kind", ["bin", "safetensors", "both"])
def test_the_hub_gives_pickled_weights_only_where_there_are_no_others(tmp_path: Path, kind: str) -> None:
    repository = write_checkpoint(tmp_path / "repository")
    for name in ("training_args.bin", "consolidated.safetensors", "adapter_model.safetensors"):
        (repository / name).write_bytes(b"{}")
    if kind != "safetensors":
        torch.save(load_file(repository / "model.safetensors"), repository / "pytorch_model.bin")
    if kind == "bin":
        (repository / "model.safetensors").unlink()
    with HubServer({"org/model": repository}) as hub:
        done = subprocess.run(
            [sys.executable, "-c", "from ovround.checkpoint import locate; print(locate('org/model'))"],
            env={**os.environ, **hub.environment(tmp_path / "home")}, capture_output=True, text=True, check=True,
        )  # fmt: skip
    folder = Path(done.stdout.strip())
    weights = {path.name for path in folder.iterdir() if path.suffix in (".bin", ".safetensors")}
    model = "pytorch_model.bin" if kind == "bin" else "model.safetensors"
    assert weights - {"consolidated.safetensors"} == {model, "adapter_model.safetensors"}
    assert prepare(str(folder), tmp_path / "out", OPTIONS).checkpoint.files[0].path.name == model
