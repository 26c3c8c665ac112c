"""A conversation in a terminal: the line editor, its history, what a line means, and how answers are shown."""
