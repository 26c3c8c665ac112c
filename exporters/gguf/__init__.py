"""GGUF, the one-file format of llama.cpp: blocks of 32 or 256 weights, with configuration and tokenizer in the header."""
