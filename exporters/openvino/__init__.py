"""OpenVINO IR, emitted straight from opset operations with compressed constants."""

from ovround.exporters.openvino.package import OpenVINOExporter as Exporter

__all__ = ["Exporter"]
