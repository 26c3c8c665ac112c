"""OpenVINO IR, emitted straight from opset operations with compressed constants."""

from .package import OpenVINOExporter as Exporter

__all__ = ["Exporter"]
