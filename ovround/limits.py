"""What files, templates, grammars and requests may cost: one place for every bound, printed by `ovround devices`.

A bound stands well above what real models need, and well below what would take a machine down. Reaching one is an error
that names it; nothing is cut to fit.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Limits:
    """Sizes in bytes or characters, times in seconds."""

    json_bytes: int = 16 << 20
    """Of a configuration or an index of shards; parsing takes up to twenty times its size."""
    manifest_bytes: int = 64 << 20
    """Of ovround.json: 300 bytes a weight, and each expert is one."""
    tokenizer_bytes: int = 256 << 20
    """Of tokenizer.json: the largest in use has 35 MB."""
    template_characters: int = 1 << 20
    """Of a chat template; long ones have 15,000."""
    template_cpu_s: float = 1.0
    """Computing that one chat may take a template, its first time included; they need milliseconds."""
    template_memory_bytes: int = 256 << 20
    """Address space of the process that renders templates, its interpreter's 40 MB included."""
    template_wait_s: float = 30.0
    """Waiting for that process, for whatever reason."""
    prompt_characters: int = 16 << 20
    """Of a rendered chat."""
    grammar_characters: int = 65_536
    """Of a JSON schema, a regular expression or a Lark grammar; 2,200 properties compile in 0.8 s, and time grows squared."""
    grammar_depth: int = 256
    """Brackets within brackets of one; parsers recurse, and a stack that overflows ends the process."""
    pattern_characters: int = 1_000
    """Of a regular expression in a checkpoint's configuration."""
    pattern_s: float = 0.5
    """For one such expression on all names of layers together."""
    request_header_s: float = 10.0
    """Until a request's line and headers are there; then the connection is closed."""
    request_body_s: float = 60.0
    """Between two parts of a request's body; then status 408."""
    request_body_bytes: int = 4 << 20
    """Of a request's body; beyond: status 413."""


LIMITS = Limits()
