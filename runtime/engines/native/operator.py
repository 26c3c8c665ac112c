"""The native operator in OpenVINO models: its library, the expansion of its nodes without it, and its use in ordinary models.

The library computes with the weights as they are stored. Without it, with an OpenVINO that it does not work with, and on devices
other than CPU, its `QuantizedLinear` nodes become products with constants: codebooks and affine integers as float16, other integers
as the same in 4 bits. A warning states the memory that this needs.

Ordinary folders need no library. If it is installed, `apply` gives it their products too, unless `choose_library` prefers the
engine's kernels. `auto` never fails because of the library: a warning says why the engine's kernels compute.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import openvino as ov
from openvino import opset13 as opset

from ovround.errors import ArtifactError, EngineError
from ovround.runtime.engines.native.library import (
    INSTALL,
    UnusedKernelsWarning,
    check_expandable,
    file_name,
    installed,
    is_faster,
    warn_expanded,
)
from ovround.runtime.engines.native.library import ExpandedWeightsWarning as ExpandedWeightsWarning  # for callers
from ovround.runtime.engines.native.openvino_versions import is_supported, open_operator, supported_range
from ovround.runtime.engines.native.repacking import repack
from ovround.tensors import native_layout as layout
from ovround.tensors.native_layout import AFFINE, CODEBOOK, INTEGERS, OPERATOR, OPSET
from ovround.tensors.quantized_linear_node import QuantizedLinear

_LIBRARY = file_name("ovround_operator")
_MARK = f'type="{OPERATOR}" version="{OPSET}"'.encode()
_ENGINES_OWN = {"DYNAMIC_QUANTIZATION_GROUP_SIZE", "CACHE_DIR"}
_REINSTALL = f"the operator works with OpenVINO {supported_range()}; --kernel engine does without it"


def library_path() -> Path | None:
    """Path of the installed native library; None if it is not installed."""
    return installed(_LIBRARY)


def needs_operator(path: Path) -> bool:
    """Whether the model at `path` has nodes of the native operator."""
    with path.open("rb") as file:
        return any(_MARK in line for line in file)


def misfit() -> str | None:
    """Why the installed library does not work with the OpenVINO in use; None if it does, or if none is installed."""
    if library_path() is None or is_supported(ov.__version__):
        return None
    return f"the native operator works with OpenVINO {supported_range()}, not {ov.__version__}"


def usable_library(path: Path, device: str, kernel: str) -> Path | None:
    """The library for the model at `path`; None if its weights are expanded instead; EngineError if that is forbidden."""
    library = library_path() if device == "CPU" and misfit() is None else None
    if library is None:
        reason, hint = _missing()
        check_expandable(path.parent, device, kernel, hint, reason)
    return library


def _missing() -> tuple[str, str]:
    """What keeps the operator from being used on CPU, and what to do about it."""
    if misfit() is None:
        return "is not installed", INSTALL
    return f"does not work with OpenVINO {ov.__version__}", f"install {supported_range()}"


def read_model(core: Any, path: Path, device: str, *, exact: bool, kernel: str) -> tuple[Any, bool]:
    """Read a model that `needs_operator`, ready for `device`, and whether the operator computes it.

    OpenVINO's own errors pass to the caller.
    """
    library = usable_library(path, device, kernel)
    reason, hint = _missing()
    if library is not None:
        try:
            open_operator(library)
            core.add_extension(str(library))
        except (RuntimeError, OSError) as error:
            if kernel == "native":
                raise _unusable(library, error) from error
            library, reason, hint = None, "cannot be loaded", _last_line(error)
    if library is None:
        core.add_extension(QuantizedLinear)
        model = core.read_model(path)
        count, before, after = expand(model, path)
        but = ", or twice that where the device computes in float32"
        warn_expanded(path.parent, device, hint, count, before, after, but, reason)
        return model, False
    model = core.read_model(path)
    if exact:
        for node in _nodes(model):
            node.set_attribute("exact", True)
    return model, True


def apply(model: Any, kernel: str, device: str, *, exact: bool, properties: Mapping[str, str]) -> bool:
    """Replace the products of an ordinary model by the operator if `choose_library` gives one; returns whether it did.

    A library that cannot be used is an EngineError with `kernel` `native`, and a warning with `auto`.
    """
    library = choose_library(kernel, device, exact=exact, properties=properties)
    if library is None:
        return False
    try:
        return repack(model, library, exact=exact) > 0
    except (RuntimeError, OSError) as error:
        if kernel == "native":
            raise _unusable(library, error) from error
        _warn_unused(f"`{library}` cannot be loaded by OpenVINO {ov.__version__}: {_last_line(error)}")
        return False


def choose_library(kernel: str, device: str, *, exact: bool, properties: Mapping[str, str]) -> Path | None:
    """The library that computes the products of ordinary folders; None for the engine's kernels.

    `auto` uses the library on CPU if it is installed, works with this OpenVINO, and the processor has 8-bit dot products, where
    it is faster. Exact mode, and properties for another arithmetic or for a cache of compiled models, use the engine's kernels.
    """
    library = library_path() if device == "CPU" else None
    if kernel == "native":
        if library is None:
            why = (
                "the native operator is not installed"
                if device == "CPU"
                else f"{device} cannot run the native operator"
            )
            raise EngineError(f"kernel is `native`, yet {why}", hint=INSTALL if device == "CPU" else "choose CPU")
        if reason := misfit():
            raise EngineError(
                f"kernel is `native`, yet {reason}", hint="install one of these versions, or --kernel auto"
            )
        return library
    if kernel == "engine" or exact or _ENGINES_OWN & set(properties) or library is None:
        return None
    if reason := misfit():
        _warn_unused(reason)
        return None
    try:
        return library if is_faster(library) else None
    except OSError as error:
        _warn_unused(f"`{library}` cannot be loaded: {error}")
        return None


def _unusable(library: Path, error: Exception) -> EngineError:
    return EngineError(
        f"`{library}` cannot be loaded by OpenVINO {ov.__version__}: {_last_line(error)}", hint=_REINSTALL
    )


def _warn_unused(reason: str) -> None:
    warnings.warn(f"{reason}; OpenVINO's own kernels compute", UnusedKernelsWarning, stacklevel=3)


def _last_line(error: Exception) -> str:
    return str(error).strip().splitlines()[-1]


def expand(model: Any, path: Path) -> tuple[int, int, int]:
    """Replace each native node by a product with constants; returns their number, and their bytes before and after.

    Raises ArtifactError for a damaged weight.
    """
    nodes = _nodes(model)
    before = after = 0
    for node in nodes:
        parts = [node.input_value(index).get_node().data for index in (1, 2, 3)]
        attributes = node.get_attributes()
        outputs, inputs = int(attributes["outputs"]), int(attributes["inputs"])
        before += sum(part.nbytes for part in parts)
        try:
            kind = attributes["weights"]
            if kind == CODEBOOK:
                weight, size = _float16(layout.expand_codebook(*parts))
            elif kind in AFFINE.values():
                weight, size = _float16(layout.expand_affine(parts, int(kind[-1]), (outputs, inputs)))
            elif kind in INTEGERS.values():
                codes, scales, zeros = parts
                weight, size = _four_bits(int(kind[-1]), codes, scales, zeros, outputs, inputs)
            else:
                raise ValueError(f"weights are `{kind}`")
        except (ValueError, IndexError) as error:
            raise ArtifactError(f"`{path}`: `{node.get_friendly_name()}` is damaged: {error}") from error
        after += size
        product = opset.matmul(node.input_value(0), weight, False, True)
        product.set_friendly_name(node.get_friendly_name())
        product.output(0).set_names(node.output(0).get_names())
        for consumer in node.output(0).get_target_inputs():
            consumer.replace_source_output(product.output(0))
    model.validate_nodes_and_infer_types()
    return len(nodes), before, after


def _nodes(model: Any) -> list[Any]:
    return [node for node in model.get_ordered_ops() if node.get_type_name() == OPERATOR]


def _float16(weight: Any) -> tuple[Any, int]:
    return opset.convert(opset.constant(weight), "f32"), weight.nbytes


def _four_bits(bits: int, codes: Any, scales: Any, zero_points: Any, outputs: int, inputs: int) -> tuple[Any, int]:
    """The nodes of a 4-bit weight, as `convert` writes them without native weights, with the same integers."""
    levels = layout.unpack_integers(codes, bits, outputs, inputs)
    factors = layout.unpack_qparams(layout.bytes_as_halves(scales), outputs)[:, :, None]
    groups = factors.shape[1]
    shape = [outputs, groups, inputs // groups]
    zeros = (
        np.full((outputs, groups), zero_points[0])
        if zero_points.size == 1
        else layout.unpack_qparams(zero_points, outputs)
    )
    value = opset.convert(_nibbles(levels, shape), "f16")
    value = opset.subtract(value, opset.convert(_nibbles(zeros, [outputs, groups, 1]), "f16"))
    value = opset.multiply(value, opset.constant(factors))
    flat = opset.reshape(value, opset.constant(np.array([outputs, inputs], np.int64)), False)
    return opset.convert(flat, "f32"), levels.size // 2 + factors.nbytes + zeros.size // 2


def _nibbles(values: Any, shape: list[int]) -> Any:
    flat = values.reshape(-1)
    flat = np.append(flat, np.zeros(flat.size % 2, np.uint8))
    tensor = ov.Tensor(ov.Type.u4, ov.Shape(shape))
    tensor.data.reshape(-1)[:] = flat[0::2] | (flat[1::2] << 4)
    return opset.constant(tensor)
