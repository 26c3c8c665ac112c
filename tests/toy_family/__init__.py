"""A family from outside of ovround, with a mixer of a new kind: what docs/guides/add-a-model.md shows."""
