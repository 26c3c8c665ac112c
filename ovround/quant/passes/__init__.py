"""Passes over a model: rounding to nearest, tuning block by block, tuning end to end."""
