"""Weights as they are stored: integers with scales, floats, codebooks, and every byte layout of them."""
