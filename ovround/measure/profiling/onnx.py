"""A graph of linear layers alone, as the ONNX exporter writes them, opened in ONNX Runtime."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort

from ovround.errors import EngineError
from ovround.exporters.onnx.external_data import DataFile
from ovround.exporters.onnx.matmul_nbits import SCALES, ZERO_POINTS, write_weight
from ovround.exporters.onnx.ops import ACCURACY_LEVEL, IR_VERSION, MICROSOFT, OPSET
from ovround.runtime.devices import machine
from ovround.tensors.float_tensor import FloatTensor
from ovround.tensors.qtensor import QTensor


def compiled(
    folder: Path, weights: Sequence[QTensor | FloatTensor], device: str, threads: int | None
) -> Callable[[], object]:
    """A function that multiplies one token by every weight in turn; `folder` receives the graph's files.

    Each product has its own input, so that the engine cannot merge two. Raises EngineError.
    """
    device_name(device)
    file = DataFile(folder / "probe.onnx.data")
    nodes = [node for number, weight in enumerate(weights) for node in _product(file, number, weight)]
    file.close()
    kind = onnx.TensorProto.FLOAT
    graph = onnx.helper.make_graph(
        nodes,
        "probe",
        [onnx.helper.make_tensor_value_info(f"x{n}", kind, [1, "T", w.shape[1]]) for n, w in enumerate(weights)],
        [onnx.helper.make_tensor_value_info(f"y{n}", kind, [1, "T", w.shape[0]]) for n, w in enumerate(weights)],
        file.initializers(),
    )
    opsets = [onnx.helper.make_opsetid("", OPSET), onnx.helper.make_opsetid(MICROSOFT, 1)]
    path = folder / "probe.onnx"
    path.write_bytes(onnx.helper.make_model(graph, ir_version=IR_VERSION, opset_imports=opsets).SerializeToString())
    options = ort.SessionOptions()
    options.log_severity_level = 3  # errors only; those are raised as well
    if threads is not None:
        options.intra_op_num_threads = threads
    try:
        session = ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except RuntimeError as error:  # the base class of ONNX Runtime's errors
        raise EngineError(f"ONNX Runtime {ort.__version__} cannot run linear layers: {error}") from error
    tokens = {f"x{n}": np.full((1, 1, w.shape[1]), 0.5, np.float32) for n, w in enumerate(weights)}
    return lambda: session.run(None, tokens)


def device_name(device: str) -> str:
    """The processor's name; raises EngineError for any device but CPU."""
    if device != "CPU":
        raise EngineError(
            f"ONNX Runtime is used on CPU only, not on `{device}`", hint="--format openvino has other devices"
        )
    return machine().cpu


def _product(file: DataFile, number: int, weight: QTensor | FloatTensor) -> list[onnx.NodeProto]:
    """The nodes of `exporters.onnx.ops.OnnxOps.linear` for one weight."""
    name, x, y = f"weight{number}", f"x{number}", f"y{number}"
    layout = write_weight(file, name, weight, table=False)
    if layout is None:
        cast = onnx.helper.make_node("Cast", [name], [f"{name}/float"], to=onnx.TensorProto.FLOAT)
        wide = file.entries[name].data_type == onnx.TensorProto.FLOAT
        inputs = [x, name if wide else f"{name}/float"]
        return [*([] if wide else [cast]), _node("FusedMatMul", inputs, y, transB=1)]
    zero_points = [name + ZERO_POINTS] if name + ZERO_POINTS in file.entries else []
    return [
        _node(
            "MatMulNBits", [x, name, name + SCALES, *zero_points], y, N=layout.shape[0], K=layout.shape[1],
            bits=layout.stored_bits, block_size=layout.block_size, accuracy_level=ACCURACY_LEVEL,
        )
    ]  # fmt: skip


def _node(kind: str, inputs: list[str], output: str, **attributes: Any) -> onnx.NodeProto:
    return onnx.helper.make_node(kind, inputs, [output], domain=MICROSOFT, **attributes)
