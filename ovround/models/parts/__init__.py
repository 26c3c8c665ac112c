"""The parts that a block is made of, one a file: mixers, MLPs, norms, and the two ends of a model.

A part knows its tensors, which of them are quantised, which linear layers are computed together, its forward over `Ops`, and
the state that it keeps. Nothing outside asks what kind of part it is.
"""
