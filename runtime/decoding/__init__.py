"""Decoding: the token loop and everything that chooses a token. It knows token ids, not text."""
