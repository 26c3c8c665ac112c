"""Tuning: from floating-point weights to `QTensor`s, block after block."""
