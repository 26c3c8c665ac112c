"""The chat page: one file that `page/build.mjs` makes, and the policy under which a browser shows it."""

from __future__ import annotations

import base64
import hashlib
import re
from pathlib import Path

PAGE = Path(__file__).parent / "chat.html"


def policy(page: str) -> str:
    """The Content-Security-Policy of `page`: its own style sheets and scripts, and requests to the server that it came from.

    Both are named by their sha256, so nothing else runs, whatever an answer holds.
    """
    scripts, styles = (
        " ".join(_hash(text) for text in re.findall(rf"<{tag}>(.*?)</{tag}>", page, re.DOTALL))
        for tag in ("script", "style")
    )
    return (
        f"default-src 'none'; script-src {scripts}; style-src {styles}; connect-src 'self'; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )


def _hash(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"
