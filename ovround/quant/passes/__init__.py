"""Passes over the model: round to nearest, block by block, end to end."""
