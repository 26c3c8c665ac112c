"""The merges of a SentencePiece vocabulary, which its tokens and scores imply.

SentencePiece joins the adjacent pair whose token has the best score. The same in terms of merges: every division of every token
into two tokens, best token first. The order among equals is that of transformers' `generate_merges`, so that both agree.
"""

from __future__ import annotations

from collections.abc import Container, Mapping, Sequence
from itertools import groupby

from ovround.checkpoint.gguf.tokenizer.vocabulary import BESIDE
from ovround.errors import CheckpointError

_CHARACTERS = 1 << 29  # that all divisions copy; Gemma's 262,144 tokens have 2^24


def merges_of_scores(tokens: Sequence[str], ids: Container[str], scores: Mapping[str, float]) -> list[tuple[str, str]]:
    """Pairs of `ids` that make one of `tokens`, best score first; raises CheckpointError for tokens that are too long.

    `scores` are those of `tokens`. Pairs that make the same token are ordered by the length of their parts, long before short.
    """
    if sum(len(token) ** 2 for token in tokens) > _CHARACTERS:
        longest = max(tokens, key=len)
        raise CheckpointError(
            f"the tokens of the GGUF file are too long: {longest!r:.60} has {len(longest)} characters",
            hint=BESIDE,
        )
    merges: list[tuple[str, str]] = []
    for _, equals in groupby(sorted(tokens, key=scores.__getitem__, reverse=True), scores.__getitem__):
        pairs = [pair for token in equals for pair in _divisions(token, ids)]
        pairs.sort(key=lambda pair: (len(pair[0]), len(pair[1])), reverse=True)
        merges += pairs
    return merges


def _divisions(token: str, ids: Container[str]) -> list[tuple[str, str]]:
    pairs = ((token[:at], token[at:]) for at in range(1, len(token)))
    return [(left, right) for left, right in pairs if left in ids and right in ids]
