"""Malicious model folders: each writes the canary file if its code is executed, or contains PRIVATE if a secret is read.

A payload changes a valid folder: a checkpoint, or a folder that we converted. The manifest of a converted folder is removed,
as an attacker would do.
"""

from __future__ import annotations

import io
import json
import os
import pickle
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnx

from ovround.artifact.manifest import MANIFEST

PRIVATE = "what another user keeps to himself"


@dataclass(frozen=True, slots=True)
class Stage:
    """`folder` is the model to change, `canary` is a file that executed code writes, `secret` is a file outside the folder."""

    folder: Path
    canary: Path
    secret: Path

    @property
    def code(self) -> str:
        return f"open({str(self.canary)!r}, 'w').write('executed')\n"

    def change(self, name: str, **values: Any) -> None:
        path = self.folder / name
        stated = json.loads(path.read_text()) if path.exists() else {}
        path.write_text(json.dumps({**stated, **values}))

    def link(self, name: str) -> None:
        (self.folder / name).unlink(missing_ok=True)
        (self.folder / name).symlink_to(self.secret)

    def library(self) -> Path:
        """A shared library that writes the canary when it is loaded; without a compiler, a file with only the ELF magic."""
        path = self.folder / "libevil.so"
        source = (
            f'#include <stdio.h>\n__attribute__((constructor)) void run() {{ fclose(fopen("{self.canary}", "w")); }}\n'
        )
        compiler = shutil.which("cc")
        if compiler is None:
            path.write_bytes(b"\x7fELF")
        else:
            subprocess.run(
                [compiler, "-shared", "-fPIC", "-x", "c", "-", "-o", path], input=source, text=True, check=True
            )
        return path


class _Executed:
    def __init__(self, code: str) -> None:
        self._code = code

    def __reduce__(self) -> Any:
        return exec, (self._code,)


def pickled(stage: Stage) -> None:
    (stage.folder / "model.safetensors").unlink()
    (stage.folder / "pytorch_model.bin").write_bytes(pickle.dumps(_Executed(stage.code)))


def torch_zip(stage: Stage) -> None:
    """Files in torch.save's layout beside valid weights, under every name that some loader tries."""
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as archive:
        archive.writestr("archive/data.pkl", pickle.dumps(_Executed(stage.code)))
        archive.writestr("archive/version", "3\n")
    for name in ("pytorch_model.bin", "consolidated.00.pth", "training_args.bin", "scheduler.pt"):
        (stage.folder / name).write_bytes(content.getvalue())


def auto_map(stage: Stage) -> None:
    for module in ("modeling_evil", "configuration_evil", "tokenization_evil"):
        (stage.folder / f"{module}.py").write_text(stage.code + "class Evil:\n    pass\n")
    stage.change(
        "config.json",
        trust_remote_code=True,
        auto_map={
            "AutoConfig": "configuration_evil.Evil",
            "AutoModelForCausalLM": "modeling_evil.Evil",
            "AutoTokenizer": ["tokenization_evil.Evil", None],
        },
    )
    stage.change("tokenizer_config.json", auto_map={"AutoTokenizer": ["tokenization_evil.Evil", None]})


def internal_key(stage: Stage) -> None:
    stage.change("config.json", _attn_implementation_internal="evil/kernel", _attn_implementation="evil/kernel")


def nested_flags(stage: Stage) -> None:
    nested = {"trust_remote_code": True, "auto_map": {"AutoConfig": "evil.Evil"}, "model_type": "evil"}
    (stage.folder / "evil.py").write_text(stage.code)
    stage.change("config.json", text_config=nested, vision_config=nested)
    stage.change("tokenizer_config.json", init_kwargs={"trust_remote_code": True}, trust_remote_code=True)


def tokenizer_class(stage: Stage) -> None:
    (stage.folder / "tokenization_evil.py").write_text(stage.code + "class EvilTokenizer:\n    pass\n")
    stage.change("tokenizer_config.json", tokenizer_class="tokenization_evil.EvilTokenizer", tokenizer_file="evil.py")


def template(stage: Stage) -> None:
    how = "{{ cycler.__init__.__globals__.os.system('touch " + str(stage.canary) + "') }}"
    stage.change("tokenizer_config.json", chat_template=how)
    (stage.folder / "chat_template.jinja").write_text(how)


def bomb(stage: Stage) -> None:
    """An archive that expands from 64 kB to 64 MB, under names of weights, calibration data and statistics."""
    content = io.BytesIO()
    with (
        zipfile.ZipFile(content, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive,
        archive.open("w.npy", "w") as file,
    ):
        for _ in range(16):
            file.write(bytes(4 << 20))
    for name in ("weights.npz", "imatrix.npz", "model.safetensors"):
        (stage.folder / name).write_bytes(content.getvalue())


def symlinks(stage: Stage) -> None:
    for name in ("LICENSE", "NOTICE", "added_tokens.json", "merges.txt"):
        stage.link(name)


def hard_links(stage: Stage) -> None:
    for path in (
        *stage.folder.glob("*.safetensors"),
        *stage.folder.glob("*.data"),
        *stage.folder.glob("openvino_model.bin"),
    ):
        path.unlink()
        os.link(stage.secret, path)


def planted_modules(stage: Stage) -> None:
    cache = stage.folder / "__pycache__"
    cache.mkdir()
    tag = sys.implementation.cache_tag
    for module in ("json", "torch", "sitecustomize", "openvino", "tokenizers", "ovround"):
        (stage.folder / f"{module}.py").write_text(stage.code)
        (cache / f"{module}.{tag}.pyc").write_bytes(b"planted")


def outside_index(stage: Stage) -> None:
    (stage.folder / "model.safetensors").unlink()
    weight_map = {"model.norm.weight": str(stage.secret), "lm_head.weight": f"../{stage.secret.name}"}
    stage.change("model.safetensors.index.json", weight_map=weight_map)


def custom_operators(stage: Stage) -> None:
    """A library in every field in which an ONNX program can name one, and a node that needs one."""
    library = str(stage.library())
    session = {
        "custom_ops_library": library,
        "ep.share_ep_contexts": "1",
        "provider_options": [{"evil": {"library": library}}],
    }
    stage.change(
        "genai_config.json", model={"type": "llama", "decoder": {"filename": "model.onnx", "session_options": session}}
    )
    stage.change("config.json", custom_ops_library=library)
    model = onnx.load(stage.folder / "model.onnx", load_external_data=False)
    model.metadata_props.add(key="custom_ops_library", value=library)
    model.opset_import.append(onnx.helper.make_opsetid("evil", 1))
    model.graph.node.append(onnx.helper.make_node("Run", [model.graph.input[0].name], ["evil"], domain="evil"))
    onnx.save(model, stage.folder / "model.onnx")


def absolute_data(stage: Stage) -> None:
    model = onnx.load(stage.folder / "model.onnx", load_external_data=False)
    for tensor in model.graph.initializer:
        for item in tensor.external_data:
            if item.key == "location":
                item.value = str(stage.secret)
    onnx.save(model, stage.folder / "model.onnx")


def openvino_extension(stage: Stage) -> None:
    library = stage.library()
    shutil.copyfile(library, stage.folder / "libopenvino_intel_cpu_plugin.so")
    (stage.folder / "plugins.xml").write_text(f'<ie><plugins><plugin name="CPU" location="{library}"/></plugins></ie>')
    stage.change("openvino_config.json", extensions=[str(library)], ov_config={"CONFIG_FILE": str(library)})
    path = stage.folder / "openvino_model.xml"
    info = f'<rt_info><extension value="{library}"/>'
    path.write_text(path.read_text().replace("<rt_info>", info, 1).replace('version="opset1"', 'version="evil"', 1))


@dataclass(frozen=True, slots=True)
class Payload:
    """A change for a folder of a kind (`checkpoint`, `openvino` or `onnx`), and the exit status of `convert` or `run`."""

    kind: str
    apply: Callable[[Stage], None]
    status: int
    format: str = "onnx"  # output format of a checkpoint; for openvino, transformers reads the tokenizer


PAYLOADS = {
    "pickle": Payload("checkpoint", pickled, 1),
    "torch zip": Payload("checkpoint", torch_zip, 0),
    "auto_map": Payload("checkpoint", auto_map, 0, "openvino"),
    "internal key": Payload("checkpoint", internal_key, 0, "openvino"),
    "nested trust flags": Payload("checkpoint", nested_flags, 0, "openvino"),
    "tokenizer class": Payload("checkpoint", tokenizer_class, 0, "openvino"),
    "template": Payload("checkpoint", template, 0),
    "npz bomb": Payload("checkpoint", bomb, 1),
    "symlink": Payload("checkpoint", symlinks, 1),
    "hard link": Payload("checkpoint", hard_links, 1),
    "planted modules": Payload("checkpoint", planted_modules, 0, "openvino"),
    "index that leads outside": Payload("checkpoint", outside_index, 1),
    "custom operators": Payload("onnx", custom_operators, 1),
    "absolute external data": Payload("onnx", absolute_data, 1),
    "hard link of weights": Payload("onnx", hard_links, 1),
    "template in a converted folder": Payload("onnx", template, 0),
    "planted modules in a converted folder": Payload("openvino", planted_modules, 0),
    "auto_map in a converted folder": Payload("openvino", auto_map, 0),
    "OpenVINO extension": Payload("openvino", openvino_extension, 1),
}


def staged(payload: Payload, sound: Path, destination: Path, canary: Path, secret: Path) -> Path:
    """Copy `sound` to `destination` and apply the payload."""
    shutil.copytree(sound, destination)
    (destination / MANIFEST).unlink(missing_ok=True)
    payload.apply(Stage(destination, canary, secret))
    return destination
