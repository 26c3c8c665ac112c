"""Weights as sums of codebook entries (AQLM): fit, search, and one weight under tuning."""
