"""Whether a prompt is rendered already: the marks that a chat template writes around a user's message."""

from __future__ import annotations

import string
from collections.abc import Iterable

PROBE = "ovround-probe"  # the user's message whose rendering shows the template's marks
_BLANK = " \t\n\r\f\v"


def template_marker(text: str, special_tokens: Iterable[str], rendered: str) -> str:
    """The mark of the template in `text`, empty if there is none.

    It is a special token or the line before a user's message, at the text's begin, or the line before the answer, at its end.
    `rendered`: what the template makes of the message PROBE; may be empty. C++ has the same in cpp/src/template_marker.cpp.
    """
    text = text.strip(_BLANK)
    tokens = sorted((token for token in special_tokens if token.strip(_BLANK)), key=len, reverse=True)
    leading = _leading(text, tokens)
    if leading or PROBE not in rendered:
        return leading
    before, _, after = rendered.rpartition(PROBE)
    header = _last_line(before)
    while token := _leading(header, tokens):
        header = header.removeprefix(token).strip(_BLANK)
    if _is_mark(header) and not any(token in header for token in tokens) and text.startswith(header):
        return header
    footer = _last_line(after)
    return footer if _is_mark(footer) and text.endswith(footer) else ""


def _leading(text: str, tokens: Iterable[str]) -> str:
    return next((token for token in tokens if text.startswith(token)), "")


def _last_line(text: str) -> str:
    return text.strip(_BLANK).rpartition("\n")[2].strip(_BLANK)


def _is_mark(line: str) -> bool:
    """A plain word is no mark: a user may write it."""
    return any(character in string.punctuation for character in line)
