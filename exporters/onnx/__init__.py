"""ONNX models for ONNX Runtime: MatMulNBits and GroupQueryAttention nodes over one external data file."""
