"""One engine a file; the folder decides which, and only that engine's library is imported."""

from __future__ import annotations

from pathlib import Path

from ovround.artifact import MANIFEST, TARGETS, check_files, read_manifest
from ovround.errors import ArtifactError, EngineError, UsageError
from ovround.runtime.engine import Engine

ON_MISSING_KERNEL = ("expand", "error")
OPENVINO_FILE = "openvino_model.xml"
ONNX_FILE = "model.onnx"


def open_engine(
    folder: Path, device: str = "CPU", *, exact: bool = False, threads: int | None = None,
    on_missing_kernel: str = "expand",
) -> Engine:  # fmt: skip
    """Load the model in `folder`: OpenVINO for openvino_model.xml, ONNX Runtime for model.onnx.

    `device` is one of OpenVINO's (`CPU`, `GPU`, `GPU.1`, `NPU`, `AUTO`); ONNX Runtime has CPU. `exact` computes in
    float32. `threads` None: the engine's choice. `on_missing_kernel`: whether weights for the native operator are expanded,
    with a warning, or refused (`error`) where it is not installed. Raises ArtifactError for a folder that is missing, damaged or no
    model, EngineError for a device that is not there or refuses the model, UsageError for `threads` below 1.
    """
    if threads is not None and (not isinstance(threads, int) or isinstance(threads, bool) or threads < 1):
        raise UsageError(f"threads is {threads!r}; a whole number of 1 or more is needed")
    if on_missing_kernel not in ON_MISSING_KERNEL:
        raise UsageError(f"on-missing-kernel is `{on_missing_kernel}`; allowed: {', '.join(ON_MISSING_KERNEL)}")
    check_folder(folder)
    if (folder / OPENVINO_FILE).is_file():
        from ovround.runtime.engines.openvino import OpenVINOEngine

        return OpenVINOEngine(folder, device, exact=exact, threads=threads, on_missing_kernel=on_missing_kernel)
    if device.upper() != "CPU":
        raise EngineError(
            f"device `{device}` cannot run `{folder}`: ONNX models run on CPU",
            hint="convert for OpenVINO, or choose CPU",
        )
    from ovround.runtime.engines.onnx import OnnxEngine

    return OnnxEngine(folder, exact=exact, threads=threads)


def check_folder(folder: Path) -> None:
    """Raise ArtifactError unless `folder` holds a model and, where it has a manifest, every file of the manifest."""
    if not folder.is_dir():
        raise ArtifactError(f"`{folder}` is no folder" if folder.exists() else f"`{folder}` does not exist")
    if (folder / MANIFEST).is_file():
        check_files(folder, read_manifest(folder), contents=False)
    if (folder / OPENVINO_FILE).is_file() or (folder / ONNX_FILE).is_file():
        return
    targets = [target for target in TARGETS if (folder / target / MANIFEST).is_file()]
    if targets:
        hint = " or ".join(f"open `{folder / target}`" for target in targets)
    elif any(folder.glob("*.safetensors")):
        hint = f"it is a checkpoint: ovround convert {folder} OUT"
    else:
        hint = "give a folder that `ovround convert` wrote"
    raise ArtifactError(f"`{folder}` has neither {OPENVINO_FILE} nor {ONNX_FILE}", hint=hint)
