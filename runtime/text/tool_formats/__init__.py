"""The formats in which chat models write tool calls and reasoning, one a file, and the parser of an answer that is written so."""
