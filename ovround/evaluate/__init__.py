"""Quality: perplexity, divergence and agreement, over any function from token ids to logits."""
