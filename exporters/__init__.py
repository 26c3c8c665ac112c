"""Formats that `ovround convert` writes: one folder each, with the exporter and the reader that verifies its output."""
