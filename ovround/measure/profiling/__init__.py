"""Latency of linear layers on a device: the measurement, and the table from which a latency budget is allocated."""
