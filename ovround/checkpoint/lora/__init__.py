"""LoRA adapters of PEFT: their folder, their arithmetic, and a checkpoint with them merged in."""
