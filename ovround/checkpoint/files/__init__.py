"""The files of a checkpoint folder as they lie: JSON objects, safetensors, torch's, and which of them hold the weights."""
