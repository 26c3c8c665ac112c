"""What is known of a model before it is converted, or even downloaded: whether it can be, what runs it, and what it takes."""
