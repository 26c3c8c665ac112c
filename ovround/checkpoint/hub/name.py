"""The name of a model on the hub: `org/name`, of a GGUF file `org/name:Q4_K_M`, each with `@revision` or without."""

from __future__ import annotations

import re
from dataclasses import dataclass

_NAME = re.compile(r"(?:hf\.co/|huggingface\.co/)?([\w.-]+/[\w.-]+)(?::([\w.-]+))?(?:@([\w./-]+))?")


@dataclass(frozen=True, slots=True)
class HubName:
    """A repository, the quantisation of a GGUF file in it, and a branch, tag or commit; None: the main branch."""

    repository: str
    tag: str | None = None
    revision: str | None = None

    @classmethod
    def parse(cls, text: str) -> HubName | None:
        """The name that `text` is, with `hf.co/` before it or not; None where it is none."""
        match = _NAME.fullmatch(text)
        return None if match is None else cls(*match.groups())

    def __str__(self) -> str:
        """Repository and revision, for messages."""
        return self.repository if self.revision is None else f"{self.repository}@{self.revision}"
