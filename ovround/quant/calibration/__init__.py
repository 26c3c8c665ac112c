"""Calibration: samples of text, and the activations of a model on them."""
