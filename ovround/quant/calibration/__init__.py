"""Calibration: samples of text, and the activations that a model computes on them."""
