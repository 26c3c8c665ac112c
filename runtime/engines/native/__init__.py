"""The native operator in the engines: its library, its nodes, and the repacking of weights for it."""
