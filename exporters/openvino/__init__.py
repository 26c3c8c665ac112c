"""OpenVINO IR, emitted as opset operations with compressed constants."""
