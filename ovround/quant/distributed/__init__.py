"""Several processes that tune one model together."""
