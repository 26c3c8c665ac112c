"""One engine a file; the folder decides which, and only that engine's library is imported."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from ovround.artifact import MANIFEST, TARGETS, check_files, read_manifest
from ovround.errors import ArtifactError, EngineError, MissingExtraError, UsageError
from ovround.runtime.engine import Engine

OPENVINO_FILE = "openvino_model.xml"
ONNX_FILE = "model.onnx"
HPU_DEVICES = ("hpu", "hpu-emulated")


def open_engine(
    folder: Path,
    device: str = "CPU",
    *,
    exact: bool = False,
    threads: int | None = None,
    properties: Mapping[str, str] | None = None,
) -> Engine:
    """Load the model in `folder`: OpenVINO for openvino_model.xml, ONNX Runtime for model.onnx.

    `device` is one of OpenVINO's (`CPU`, `GPU`, `GPU.1`, `NPU`, `AUTO`); ONNX Runtime has CPU. `HPU` (Gaudi) and
    `hpu-emulated` run by torch, checkpoints too; they need the extra `convert`. `exact` computes in float32. `threads`
    None: the engine's choice. `properties` go to the engine as they are: to OpenVINO's device (`KV_CACHE_PRECISION`), or
    ONNX Runtime's session (`session.intra_op.allow_spinning`). Raises ArtifactError for a folder that is missing, damaged or
    no model, EngineError for a device that is not there or refuses the model, UsageError for `threads` below 1.
    """
    if threads is not None and (not isinstance(threads, int) or isinstance(threads, bool) or threads < 1):
        raise UsageError(f"threads is {threads!r}; a whole number of 1 or more is needed")
    check_folder(folder, device)
    if device.lower() in HPU_DEVICES:
        return _open_hpu(folder, device.lower(), exact=exact, threads=threads)
    if (folder / OPENVINO_FILE).is_file():
        from ovround.runtime.engines.openvino import OpenVINOEngine

        return OpenVINOEngine(folder, device, exact=exact, threads=threads, properties=properties)
    if device.upper() != "CPU":
        raise EngineError(
            f"device `{device}` cannot run `{folder}`: ONNX models run on CPU",
            hint="convert for OpenVINO, or choose CPU",
        )
    from ovround.runtime.engines.onnx import OnnxEngine

    return OnnxEngine(folder, exact=exact, threads=threads, properties=properties)


def _open_hpu(folder: Path, device: str, *, exact: bool, threads: int | None) -> Engine:
    try:
        from ovround.runtime.engines.hpu import HpuEngine
    except ModuleNotFoundError as error:
        if error.name != "torch":
            raise
        raise MissingExtraError("torch", "convert") from error
    return HpuEngine(folder, device, exact=exact, threads=threads)


def check_folder(folder: Path, device: str = "CPU") -> None:
    """Raise ArtifactError unless `folder` holds a model for `device` and, where it has a manifest, every file of that."""
    if not folder.is_dir():
        raise ArtifactError(f"`{folder}` is no folder" if folder.exists() else f"`{folder}` does not exist")
    if (folder / MANIFEST).is_file():
        check_files(folder, read_manifest(folder), contents=False)
    if (folder / OPENVINO_FILE).is_file() or (folder / ONNX_FILE).is_file():
        return
    if device.lower() in HPU_DEVICES and (folder / "config.json").is_file():
        return  # a checkpoint, which says itself what is wrong with it
    targets = [target for target in TARGETS if (folder / target / MANIFEST).is_file()]
    if targets:
        hint = " or ".join(f"open `{folder / target}`" for target in targets)
    elif any(folder.glob("*.safetensors")):
        hint = f"it is a checkpoint: ovround convert {folder} OUT"
    else:
        hint = "give a folder that `ovround convert` wrote"
    raise ArtifactError(f"`{folder}` has neither {OPENVINO_FILE} nor {ONNX_FILE}", hint=hint)
