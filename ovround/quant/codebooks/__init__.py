"""Weights as sums of codebook entries (AQLM): fit, search, and how one weight is tuned."""
