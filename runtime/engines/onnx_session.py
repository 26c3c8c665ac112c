"""An ONNX Runtime session for a folder's model, with its weights as they are stored, repacked for the native operator, or expanded."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import onnxruntime as ort
from numpy.typing import NDArray
from onnxruntime.capi import onnxruntime_pybind11_state as ort_errors

from ovround.errors import ArtifactError, EngineError
from ovround.runtime.engines import onnx_operator
from ovround.runtime.engines.native.library import check_expandable, warn_expanded

ORT_ERRORS = (
    ort_errors.Fail, ort_errors.EPFail, ort_errors.InvalidArgument, ort_errors.InvalidGraph, ort_errors.InvalidProtobuf,
    ort_errors.NoSuchFile, ort_errors.NotImplemented, ort_errors.RuntimeException,
)  # fmt: skip


def open_session(path: Path, options: Any, exact: bool, kernel: str) -> tuple[Any, dict[str, NDArray[Any]], str]:
    """The session, the weights that were expanded for it, by name, and whose kernels compute."""
    model: str | bytes = str(path)
    if exact:
        from ovround.runtime.engines.onnx_exact import exact_model

        model = exact_model(path)
    weights: dict[str, NDArray[Any]] = {}
    used = "engine"
    if path.is_file() and onnx_operator.needs_operator(path):
        missing = _register_operator(options)
        if missing is None:
            used = "native"
        else:
            model, weights = _expanded(path, model, kernel, missing, exact=exact)
    elif path.is_file() and (library := onnx_operator.choose_library(kernel, exact=exact)) is not None:
        model, weights = _repacked(path, model, options, library, kernel, exact=exact)
        used = "native" if weights else "engine"
    if weights:
        values = [ort.OrtValue.ortvalue_from_numpy(array) for array in weights.values()]
        options.add_external_initializers(list(weights), values)
    if isinstance(model, bytes):
        folder = str(path.parent.absolute())
        options.add_session_config_entry("session.model_external_initializers_file_folder_path", folder)
    try:
        session = ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    except ORT_ERRORS as error:
        newer = "a newer onnxruntime has the operator" if "is not a registered function/op" in str(error) else None
        raise ArtifactError(
            f"`{path}` cannot be read by ONNX Runtime {ort.__version__}: {error}", hint=newer
        ) from error
    return session, weights, used


def _expanded(
    path: Path, model: str | bytes, kernel: str, missing: tuple[str, str], *, exact: bool
) -> tuple[bytes, dict[str, NDArray[Any]]]:
    """The model with weights of the operator expanded, and those by name; EngineError if `kernel` forbids it."""
    reason, hint = missing
    check_expandable(path.parent, "CPU", kernel, hint, reason)
    from ovround.runtime.engines.onnx_expansion import expand

    done = expand(path.read_bytes() if isinstance(model, str) else model, path, exact=exact)
    warn_expanded(path.parent, "CPU", hint, done.count, done.before, done.after, reason=reason)
    return done.model, done.initializers


def _repacked(
    path: Path, model: str | bytes, options: Any, library: Path, kernel: str, *, exact: bool
) -> tuple[str | bytes, dict[str, NDArray[Any]]]:
    """An ordinary model with weights repacked for the operator, and those by name.

    A library that cannot be used is an EngineError with `kernel` `native`, and a warning with `auto`.
    """
    from ovround.runtime.engines.onnx_repacking import repack

    try:
        missing = _register_operator(options)
        if missing is not None:
            raise OSError(f"{missing[0]}: {missing[1]}")
        done = repack(path.read_bytes() if isinstance(model, str) else model, path, library, exact=exact)
    except OSError as error:
        if kernel == "native":
            hint = "--kernel engine does without it; or install it again"
            raise EngineError(f"the native operator cannot be used: {error}", hint=hint) from error
        onnx_operator.warn_unused(f"the native operator cannot be used: {error}")
        return model, {}
    return (done.model, done.initializers) if done.count else (model, {})


def _register_operator(options: Any) -> tuple[str, str] | None:
    """Register the native library in the session; returns what keeps it from being used and a hint, or None."""
    library = onnx_operator.library_path()
    if library is None:
        return "is not installed", onnx_operator.INSTALL
    try:
        options.register_custom_ops_library(str(library))
    except ORT_ERRORS as error:
        return f"`{library}` cannot be loaded by ONNX Runtime {ort.__version__}", str(error)
    return None
