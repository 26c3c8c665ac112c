"""Bits by layer: the loss of each width, and the best choice within a budget."""
