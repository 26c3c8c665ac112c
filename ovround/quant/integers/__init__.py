"""Weights as integers: levels, scales, zero points, their initial values, and one weight under tuning."""
