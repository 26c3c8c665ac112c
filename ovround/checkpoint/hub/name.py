"""The name of a model on the hub: `org/name`, of a GGUF file `org/name:Q4_K_M`, each with `@revision` or without.

What the browser shows is a name too: `https://huggingface.co/org/name`, and the page of a branch or of a file.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from urllib.parse import parse_qs, unquote, urlsplit

_NAME = re.compile(r"(\w[\w.-]*/\w[\w.-]*)(?::([\w./-]+?))?(?:@([\w./-]+?))?/?")
_PAGE = re.compile(r"(?:https?://|hf://)?(?:www\.)?(?:hf\.co|huggingface\.co)/+(.+)|hf://(.+)")
_OTHER_PAGES = (
    "datasets",
    "spaces",
    "docs",
    "blog",
    "papers",
    "collections",
    "models",
)  # which no organisation is called
_OF_A_REVISION = ("tree", "blob", "resolve", "raw", "commit", "commits")
_MAIN, _SHOWN_FILE = "main", "show_file_info"


@dataclass(frozen=True, slots=True)
class HubName:
    """A repository, the quantisation of a GGUF file in it, and a branch, tag or commit; None: the main branch."""

    repository: str
    tag: str | None = None
    revision: str | None = None

    @classmethod
    def parse(cls, text: str) -> HubName | None:
        """The name that `text` is, by itself or as the address of a page; None where it is none."""
        page = hub_page(text)
        if page is None:
            match = _NAME.fullmatch(text)
            return None if match is None else cls(*match.groups())
        words = page.split("/")
        match = _NAME.fullmatch("/".join(words[:2]))
        if match is None or words[0] in _OTHER_PAGES:
            return None
        repository, tag, revision = match.groups()
        if len(words) > 3 and words[2] in _OF_A_REVISION:
            revision = revision or unquote(words[3])
            tag = tag or _gguf(unquote("/".join(words[4:])))
        tag = tag or _gguf(parse_qs(urlsplit(text).query).get(_SHOWN_FILE, [""])[0])
        return cls(repository, tag, None if revision == _MAIN else revision)

    def __str__(self) -> str:
        """Repository and revision, for messages."""
        return self.repository if self.revision is None else f"{self.repository}@{self.revision}"

    @property
    def text(self) -> str:
        """All of it as it is typed, the same for every way to write it."""
        tag = "" if self.tag is None else f":{self.tag}"
        return f"{self.repository}{tag}{'' if self.revision is None else f'@{self.revision}'}"


def _gguf(file: str) -> str | None:
    return file if file.endswith(".gguf") else None


def hub_page(text: str) -> str | None:
    """The path of a page of the hub, or of the one that HF_ENDPOINT names, without slashes around it; None for another text."""
    plain = text.partition("?")[0].partition("#")[0]
    mirror = urlsplit(os.environ.get("HF_ENDPOINT", "")).netloc
    address = urlsplit(plain)
    if mirror and address.scheme in ("http", "https") and address.netloc == mirror:
        return address.path.strip("/")
    match = _PAGE.fullmatch(plain)
    return None if match is None else (match[1] or match[2]).strip("/")
