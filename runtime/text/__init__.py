"""Text: tokenizer, chat templates, and text as it grows."""
