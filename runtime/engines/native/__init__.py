"""The native operator in the engines: its library, its nodes, and weights repacked for it."""
