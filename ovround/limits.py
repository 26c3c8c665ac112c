"""Limits of files, templates, grammars and requests, all in one place; `ovround devices` prints them.

A limit is well above the needs of real models, and well below what would exhaust a machine. Exceeding it is an error that
names the limit; nothing is truncated.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Limits:
    """Sizes in bytes or characters, times in seconds."""

    json_bytes: int = 16 << 20
    """Size of a configuration or an index of shards; parsing takes up to twenty times as much memory."""
    manifest_bytes: int = 64 << 20
    """Size of ovround.json: it has 300 bytes a weight, and each expert is a weight."""
    tokenizer_bytes: int = 256 << 20
    """Size of tokenizer.json: the largest in use has 35 MB."""
    gguf_header_bytes: int = 512 << 20
    """Size of a GGUF file's header: a vocabulary of 262,144 tokens and its merges take 18 MB."""
    gguf_array: int = 4 << 20
    """Elements of an array in such a header; the longest in use has 520,000 merges."""
    template_characters: int = 1 << 20
    """Length of a chat template; long templates have 15,000."""
    template_cpu_s: float = 1.0
    """CPU time for rendering one chat, compiling the template included; real templates take milliseconds."""
    template_memory_bytes: int = 256 << 20
    """Address space of the process that renders templates; its interpreter takes 40 MB of it."""
    template_wait_s: float = 30.0
    """Longest wait for the answer of that process."""
    prompt_characters: int = 16 << 20
    """Length of a rendered chat."""
    grammar_characters: int = 65_536
    """Length of a JSON schema, regular expression or Lark grammar. 2,200 properties compile in 0.8 s; time grows quadratically."""
    grammar_depth: int = 256
    """Nesting of brackets in a grammar; parsers recurse, and a stack overflow would end the process."""
    pattern_characters: int = 1_000
    """Length of a regular expression in a checkpoint's configuration."""
    pattern_s: float = 0.5
    """Time for matching one such expression with the names of all layers."""
    request_header_s: float = 10.0
    """Longest wait for a request's line and headers; after it the connection is closed."""
    request_body_s: float = 60.0
    """Longest wait between two parts of a request's body; after it the status is 408."""
    request_body_bytes: int = 4 << 20
    """Size of a request's body; a larger body gets status 413."""
    stored_response_bytes: int = 64 << 20
    """Size of all responses that a server keeps for `previous_response_id`; the longest unused ones are forgotten."""


LIMITS = Limits()
