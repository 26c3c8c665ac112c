"""A graph of linear layers alone, as the OpenVINO exporter writes them, compiled on a device."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import openvino as ov
from openvino import opset13 as opset

from ovround.errors import EngineError
from ovround.exporters.openvino.compressed import write_weight
from ovround.exporters.openvino.constants import ConstantFile
from ovround.exporters.openvino.decompression import decode_node
from ovround.tensors.float_tensor import FloatTensor
from ovround.tensors.qtensor import QTensor


def compiled(
    folder: Path, weights: Sequence[QTensor | FloatTensor], device: str, threads: int | None
) -> Callable[[], object]:
    """A function that multiplies one token by every weight in turn; `folder` receives the graph's files.

    Each product has its own input, so that the engine cannot merge two. Raises EngineError.
    """
    file = ConstantFile(folder / "probe.bin")
    inputs, results = [], []
    for number, weight in enumerate(weights):
        name = f"weight{number}"
        write_weight(file, name, weight, table=False)
        token = opset.parameter(ov.PartialShape([1, -1, weight.shape[1]]), ov.Type.f32)
        inputs.append(token)
        results.append(opset.result(opset.matmul(token, decode_node(file, name), False, True)))
    model = ov.Model(results, inputs, "probe")
    file.close()
    path, scratch = folder / "probe.xml", folder / "placeholders.bin"
    ov.serialize(model, path, scratch)
    scratch.unlink()
    file.redirect(path)
    options: dict[str, Any] = {} if threads is None else {"INFERENCE_NUM_THREADS": threads}
    try:
        request = ov.Core().compile_model(path, device, options).create_infer_request()
    except RuntimeError as error:
        raise EngineError(
            f"OpenVINO cannot run linear layers on {device}: {str(error).strip().splitlines()[-1]}"
        ) from error
    for number, weight in enumerate(weights):
        request.set_input_tensor(number, ov.Tensor(np.full((1, 1, weight.shape[1]), 0.5, np.float32)))
    run: Callable[[], object] = request.infer
    return run


def device_name(device: str) -> str:
    """The full name of a device; raises EngineError for a device that does not exist."""
    core = ov.Core()
    try:
        return str(core.get_property(device, "FULL_DEVICE_NAME"))
    except RuntimeError as error:
        raise EngineError(
            f"OpenVINO has no device `{device}` here", hint=f"devices: {', '.join(core.available_devices)}"
        ) from error
