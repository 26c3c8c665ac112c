"""The table of formats: each one's exporter, reader and sizes, by the format's name, imported when they are asked for.

The imports are written out, so that type checkers and import tools follow them. OpenVINO's exporter needs seconds to import,
which a look at sizes does not pay. A name without a case here is a checkpoint format (`checkpoints/formats.py`).
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ovround.artifact.manifest import WeightRecord
from ovround.exporters.exporter import Exporter, Reader
from ovround.exporters.sizes import Sizes
from ovround.models.decoder import Decoder
from ovround.tensors.scheme import WeightScheme


def open_exporter(
    format_name: str,
    folder: Path,
    decoder: Decoder,
    source: Path,
    plan: Mapping[str, WeightScheme | None],
    *,
    config: Mapping[str, Any],
    native_weights: bool = False,
) -> Exporter:
    """The exporter that fills `folder` with a model of this plan; `source` has the files that are carried along.

    `config` is the model's config.json.

    Raises UsageError and ArchitectureError for what the format cannot hold.
    """
    match format_name:
        case "openvino":
            from ovround.exporters.openvino.package import OpenVINOExporter

            return OpenVINOExporter(folder, decoder, source, native_weights=native_weights)
        case "onnx":
            from ovround.exporters.onnx.package import OnnxExporter

            return OnnxExporter(folder, decoder, source, native_weights=native_weights)
        case "gguf":
            from ovround.exporters.gguf.package import GgufExporter

            return GgufExporter(folder, decoder, source, config)
        case _:
            from ovround.exporters.checkpoints.folder import CheckpointExporter

            return CheckpointExporter(format_name, folder, decoder, source, plan)


def open_reader(format_name: str, folder: Path, records: Mapping[str, WeightRecord]) -> Reader:
    """The weights of a written folder; `records` is what its manifest states of each, by name.

    Raises VerifyError for a folder whose files contradict each other.
    """
    match format_name:
        case "openvino":
            from ovround.exporters.openvino.reading import Reader as OpenVINOReader

            return OpenVINOReader(folder, records)
        case "onnx":
            from ovround.exporters.onnx.reading import Reader as OnnxReader

            return OnnxReader(folder, records)
        case "gguf":
            from ovround.exporters.gguf.reading import Reader as GgufReader

            return GgufReader(folder, records)
        case _:
            from ovround.exporters.checkpoints.reading import Reader as CheckpointReader

            return CheckpointReader(folder, records)


def sizes_of(format_name: str) -> Sizes:
    """How many bytes weights take in a format."""
    match format_name:
        case "openvino":
            from ovround.exporters.openvino import sizes as openvino_sizes

            return openvino_sizes
        case "onnx":
            from ovround.exporters.onnx import sizes as onnx_sizes

            return onnx_sizes
        case "gguf":
            from ovround.exporters.gguf import sizes as gguf_sizes

            return gguf_sizes
        case _:
            from ovround.exporters.checkpoints import sizes as checkpoint_sizes

            return checkpoint_sizes
