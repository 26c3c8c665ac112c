"""One engine per file; the folder decides which one is opened, and only its library is imported."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from pathlib import Path

from ovround.artifact.manifest import ENGINE_FORMATS, MANIFEST, Manifest, check_files, read_manifest
from ovround.errors import ArtifactError, EngineError, MissingExtraError, UsageError
from ovround.runtime.engine import Engine
from ovround.runtime.verification import verification

KERNELS = ("auto", "native", "engine")
OPENVINO_FILE = "openvino_model.xml"
ONNX_FILE = "model.onnx"
HPU_DEVICES = ("hpu", "hpu-emulated")
_CONVERTING = 'LLM("{}") converts a model or hub name once; so does `ovround run`'


def open_engine(
    folder: Path,
    device: str = "CPU",
    *,
    exact: bool = False,
    threads: int | None = None,
    properties: Mapping[str, str] | None = None,
    verify: bool = True,
    kernel: str = "auto",
) -> Engine:
    """Load the model in `folder`: OpenVINO for openvino_model.xml, ONNX Runtime for model.onnx.

    `device`: one of OpenVINO's (`CPU`, `GPU`, `GPU.1`, `NPU`, `AUTO`); ONNX Runtime has CPU. `HPU` (Gaudi) and
    `hpu-emulated` run by torch, also from checkpoints, and need the extra `convert`. `exact`: float32 arithmetic. `threads`:
    None for the engine's own number. `properties`: passed to OpenVINO's device (`KV_CACHE_PRECISION`) or ONNX Runtime's
    session (`session.intra_op.allow_spinning`). `verify`: compare every byte with the manifest, see `verification`.
    `kernel`: matrix-multiplication kernels for quantised weights on CPU: those of the native operator (`native`; EngineError
    if it is not installed), of the engine (`engine`), or the faster ones (`auto`, see `native_operator.choose_library`).
    Weights in the layout of the native operator need it; without it they are expanded, with a warning, unless `kernel` is
    `native`.

    Raises ArtifactError for a folder that is missing, damaged or no model, EngineError for a device that is missing or
    refuses the model, UsageError for `threads` below 1.
    """
    if threads is not None and (not isinstance(threads, int) or isinstance(threads, bool) or threads < 1):
        raise UsageError(f"threads is {threads!r}; a whole number of 1 or more is needed")
    check_kernel(kernel)
    with verified(folder, device, contents=verify):
        return _engine(folder, device, exact, threads, properties, kernel)


def check_kernel(kernel: str) -> None:
    """Raise UsageError for an unknown kernel."""
    if kernel not in KERNELS:
        raise UsageError(f"kernel is `{kernel}`; allowed: {', '.join(KERNELS)}")


def _engine(
    folder: Path,
    device: str,
    exact: bool,
    threads: int | None,
    properties: Mapping[str, str] | None,
    kernel: str,
) -> Engine:
    if device.lower() in HPU_DEVICES:
        return _open_hpu(folder, device.lower(), exact=exact, threads=threads)
    if (folder / OPENVINO_FILE).is_file():
        from ovround.runtime.engines.openvino import OpenVINOEngine

        return OpenVINOEngine(
            folder, device, exact=exact, threads=threads, properties=properties, kernel=kernel,
        )  # fmt: skip
    if device.upper() != "CPU":
        raise EngineError(
            f"device `{device}` cannot run `{folder}`: ONNX models run on CPU",
            hint="convert for OpenVINO, or choose CPU",
        )
    from ovround.runtime.engines.onnx import OnnxEngine

    return OnnxEngine(folder, exact=exact, threads=threads, properties=properties, kernel=kernel)


def _open_hpu(folder: Path, device: str, *, exact: bool, threads: int | None) -> Engine:
    try:
        from ovround.runtime.engines.hpu import HpuEngine
    except ModuleNotFoundError as error:
        if error.name != "torch":
            raise
        raise MissingExtraError("torch", "convert") from error
    return HpuEngine(folder, device, exact=exact, threads=threads)


@contextlib.contextmanager
def verified(folder: Path, device: str = "CPU", *, contents: bool = True) -> Iterator[None]:
    """Around the loading of `folder`: `check_folder` and, with `contents`, the comparison of every listed byte.

    Parsed files (graphs, tokenizer, configuration) are compared before an engine's native code reads them. Weights are
    only mapped and multiplied, so they are compared during loading. ArtifactError names a changed file.
    """
    manifest = check_folder(folder, device)
    if manifest is None or not contents:
        yield
        return
    with verification(folder, manifest):
        yield


def check_folder(folder: Path, device: str = "CPU") -> Manifest | None:
    """The folder's manifest if it has one; raises ArtifactError without a model for `device`, or for a missing file."""
    if not folder.is_dir():
        what = "is no folder" if folder.exists() else "does not exist"
        raise ArtifactError(f"`{folder}` {what}", hint=_CONVERTING.format(folder))
    manifest = None
    if (folder / MANIFEST).exists():
        manifest = read_manifest(folder)
        check_files(folder, manifest, contents=False)
    if (folder / OPENVINO_FILE).is_file() or (folder / ONNX_FILE).is_file():
        return manifest
    if device.lower() in HPU_DEVICES and (folder / "config.json").is_file():
        return manifest  # a checkpoint, which its own reader checks
    format_names = [format_name for format_name in ENGINE_FORMATS if (folder / format_name / MANIFEST).is_file()]
    if format_names:
        hint = " or ".join(f"open `{folder / format_name}`" for format_name in format_names)
    elif any(folder.glob("*.safetensors")):
        hint = f"it is a checkpoint: {_CONVERTING.format(folder)}"
    else:
        hint = "give a folder that `ovround convert` wrote"
    raise ArtifactError(f"`{folder}` has neither {OPENVINO_FILE} nor {ONNX_FILE}", hint=hint)
