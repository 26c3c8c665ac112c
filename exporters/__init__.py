"""Writers: one target a folder, each taking tensors as they are finished and leaving a folder that its engine reads."""
