"""Weights as integers: levels, scales, zero points, where they begin and how one weight is tuned."""
