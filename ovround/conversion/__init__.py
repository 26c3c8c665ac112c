"""The main job: prepare, quantise, export, verify."""
