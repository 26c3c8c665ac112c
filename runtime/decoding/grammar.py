"""Constrained answers: a JSON schema, a regular expression, or a Lark grammar, by the llguidance library.

A grammar that cannot be imposed is an error before the first token; an answer is never left unconstrained.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from ovround.errors import GenerationError, MissingExtraError, UsageError
from ovround.limits import LIMITS

Kind = Literal["json_schema", "regex", "lark"]


@dataclass(frozen=True, slots=True)
class Grammar:
    """The grammar of an answer: `source` is a JSON schema as text, a regular expression, or a grammar in Lark's notation."""

    kind: Kind
    source: str

    def __post_init__(self) -> None:
        if self.kind not in get_args(Kind):
            raise UsageError(f"grammar kind is {self.kind!r}; {', '.join(get_args(Kind))} are allowed")
        if not isinstance(self.source, str) or not 0 < len(self.source) <= LIMITS.grammar_characters:
            raise UsageError(f"a grammar is a text of 1 to {LIMITS.grammar_characters} characters")
        if _depth(self.source) > LIMITS.grammar_depth:
            raise UsageError(f"a grammar may have {LIMITS.grammar_depth} brackets within brackets; this one has more")
        if self.kind == "json_schema":
            try:
                json.loads(self.source)
            except (ValueError, RecursionError) as error:
                raise UsageError(f"the JSON schema is no JSON: {error}") from error


def _depth(source: str) -> int:
    """Largest number of open brackets, also in strings, since patterns within a schema are parsed too."""
    depth = deepest = 0
    for character in source:
        if character in "([{":
            depth += 1
            deepest = max(deepest, depth)
        elif character in ")]}":
            depth -= 1
    return deepest


ANY_JSON_OBJECT = Grammar("json_schema", '{"type": "object"}')


class GrammarCompiler:
    """llguidance's table of one tokenizer, which takes a second for a large vocabulary; it makes the matchers."""

    def __init__(
        self, tokenizer_json: str, id_count: int, end_token_ids: Sequence[int], vocab_size: int | None = None
    ) -> None:
        """`tokenizer_json` as the `tokenizers` library writes it; raises MissingExtraError without llguidance.

        `id_count` ids, of which the model's logits have the first `vocab_size`; None for all.
        """
        try:
            import llguidance
        except ImportError as error:
            raise MissingExtraError("llguidance", "grammar") from error
        self._library: Any = llguidance
        self._vocab_size = id_count if vocab_size is None else vocab_size
        try:
            self._tokenizer = llguidance.LLTokenizer(
                tokenizer_json, n_vocab=id_count, eos_token=list(end_token_ids) or None
            )
        except ValueError as error:
            raise GenerationError(f"this model's tokenizer cannot be held to a grammar: {error}") from error

    def matcher(self, grammar: Grammar) -> Matcher:
        """The state of a new answer; raises GenerationError, with the library's reason, for an unsupported grammar."""
        matchers = self._library.LLMatcher
        if grammar.kind == "json_schema":
            try:
                source = matchers.grammar_from_json_schema(grammar.source, overrides={"whitespace_flexible": False})
            except ValueError as error:
                raise GenerationError(f"this JSON schema cannot be imposed: {error}") from error
        else:
            source = getattr(matchers, f"grammar_from_{grammar.kind}")(grammar.source)
        matcher = matchers(self._tokenizer, source, log_level=0)
        if matcher.is_error():
            reason = matcher.get_error().strip().splitlines()[0]
            raise GenerationError(f"this {grammar.kind.replace('_', ' ')} cannot be imposed: {reason}")
        return Matcher(matcher, self._vocab_size)


class Matcher:
    """The position of one answer in its grammar."""

    def __init__(self, matcher: Any, vocab_size: int) -> None:
        self._matcher = matcher
        self._vocab_size = vocab_size

    def allowed(self) -> NDArray[np.bool_]:
        """Mask `[V]` of the tokens that may come next; raises GenerationError when the grammar has become too large."""
        bits = np.frombuffer(self._matcher.compute_bitmask(), np.uint8)
        self._check()
        mask = np.unpackbits(bits, bitorder="little")[: self._vocab_size].astype(bool)
        return np.pad(mask, (0, self._vocab_size - len(mask)))

    def accept(self, token_id: int) -> None:
        """Advance by `token_id`."""
        self._matcher.consume_token(token_id)
        self._check()

    @property
    def ended(self) -> bool:
        """Whether no token may follow."""
        return bool(self._matcher.is_stopped())

    def _check(self) -> None:
        if self._matcher.is_error():
            raise GenerationError(
                f"the grammar cannot be followed: {self._matcher.get_error().strip().splitlines()[0]}"
            )
