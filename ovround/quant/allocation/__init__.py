"""Bits by layer: how much each width loses, and the best choice within a budget."""
