"""What the tensors of a quantised checkpoint mean: one format a file, integers kept or small floats decoded."""
