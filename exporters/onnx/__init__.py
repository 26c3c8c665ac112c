"""ONNX models for ONNX Runtime: MatMulNBits and GroupQueryAttention nodes over one external data file."""

from ovround.exporters.onnx.package import OnnxExporter as Exporter

__all__ = ["Exporter"]
