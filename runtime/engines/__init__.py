"""One engine a file; the folder decides which, and only that engine's library is imported."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

from ovround.artifact import MANIFEST, TARGETS, Manifest, check_files, read_manifest
from ovround.errors import ArtifactError, EngineError, UsageError
from ovround.runtime.engine import Engine
from ovround.runtime.verification import verification

OPENVINO_FILE = "openvino_model.xml"
ONNX_FILE = "model.onnx"


def open_engine(
    folder: Path, device: str = "CPU", *, exact: bool = False, threads: int | None = None, verify: bool = True
) -> Engine:
    """Load the model in `folder`: OpenVINO for openvino_model.xml, ONNX Runtime for model.onnx.

    `device` is one of OpenVINO's (`CPU`, `GPU`, `GPU.1`, `NPU`, `AUTO`); ONNX Runtime has CPU. `exact` computes in
    float32. `threads` None: the engine's choice. `verify`: compare every byte with the manifest, see `verification`.
    Raises ArtifactError for a folder that is missing, damaged or no model, EngineError for a device that is not there
    or refuses the model, UsageError for `threads` below 1.
    """
    if threads is not None and (not isinstance(threads, int) or isinstance(threads, bool) or threads < 1):
        raise UsageError(f"threads is {threads!r}; a whole number of 1 or more is needed")
    with verified(folder, contents=verify):
        return _engine(folder, device, exact, threads)


def _engine(folder: Path, device: str, exact: bool, threads: int | None) -> Engine:
    if (folder / OPENVINO_FILE).is_file():
        from ovround.runtime.engines.openvino import OpenVINOEngine

        return OpenVINOEngine(folder, device, exact=exact, threads=threads)
    if device.upper() != "CPU":
        raise EngineError(
            f"device `{device}` cannot run `{folder}`: ONNX models run on CPU",
            hint="convert for OpenVINO, or choose CPU",
        )
    from ovround.runtime.engines.onnx import OnnxEngine

    return OnnxEngine(folder, exact=exact, threads=threads)


@contextlib.contextmanager
def verified(folder: Path, *, contents: bool = True) -> Iterator[None]:
    """Around the loading of `folder`: what `check_folder` checks and, with `contents`, every byte that the manifest lists.

    What is parsed (graphs, tokenizer, configuration) is compared before an engine's native code sees it; weights, which
    are only mapped and multiplied, while it loads. Raises ArtifactError naming the file that has changed.
    """
    manifest = check_folder(folder)
    if manifest is None or not contents:
        yield
        return
    with verification(folder, manifest):
        yield


def check_folder(folder: Path) -> Manifest | None:
    """The folder's manifest, where it has one; raises ArtifactError unless it holds a model and every file of the manifest."""
    if not folder.is_dir():
        raise ArtifactError(f"`{folder}` is no folder" if folder.exists() else f"`{folder}` does not exist")
    manifest = None
    if (folder / MANIFEST).exists():
        manifest = read_manifest(folder)
        check_files(folder, manifest, contents=False)
    if (folder / OPENVINO_FILE).is_file() or (folder / ONNX_FILE).is_file():
        return manifest
    targets = [target for target in TARGETS if (folder / target / MANIFEST).is_file()]
    if targets:
        hint = " or ".join(f"open `{folder / target}`" for target in targets)
    elif any(folder.glob("*.safetensors")):
        hint = f"it is a checkpoint: ovround convert {folder} OUT"
    else:
        hint = "give a folder that `ovround convert` wrote"
    raise ArtifactError(f"`{folder}` has neither {OPENVINO_FILE} nor {ONNX_FILE}", hint=hint)
