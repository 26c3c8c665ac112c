"""What a request holds beyond the fields of the API: ignored and named once in the log, or refused.

As with vLLM, a field that the server does not know changes nothing. Fields that would bind the answer (a grammar, another
prompt, audio) are refused unless they have their neutral value, since an answer without them would be a wrong one.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from typing import Any

from pydantic import BaseModel

from ovround.runtime.server.field_support import FieldError
from ovround.runtime.server.request_model import RequestModel

_MAX_NAMED = 100  # so that no client fills the log
_LOG = logging.getLogger("ovround.server")

UNSERVED: Mapping[str, tuple[Any, ...]] = {
    "adapter": (), "adapters": ([],),
    "add_generation_prompt": (True,), "allowed_token_ids": ([],), "audio": (), "bad_words": ([],), "chat_template": (),
    "continue_final_message": (False,), "documents": ([],), "echo": (False,), "function_call": ("none", "auto"),
    "functions": ([],), "grammar": ("",), "guided_choice": ([],), "include_stop_str_in_output": (False,),
    "json_schema": (), "min_tokens": (0,), "modalities": (["text"], []), "prompt_embeds": ([],),
    "skip_special_tokens": (True,), "structured_outputs": ({},), "truncate_prompt_tokens": (), "use_beam_search": (False,),
    "web_search_options": (),
}  # fmt: skip
"""Fields of other servers that bind the answer, with the values that leave it as it is; null always does."""


class UnknownFields:
    """The policy of one server; `strict` refuses every unknown field."""

    def __init__(self, *, strict: bool) -> None:
        self._strict, self._named = strict, set[str]()

    def check(self, body: RequestModel) -> None:
        """Log each unknown field at its first use; raises FieldError for one that is refused."""
        unserved = {**UNSERVED, **type(body).unserved}
        for path, value in _unknown(body, ""):
            name = path.replace("[]", "")
            if self._strict:
                raise FieldError(
                    path, f"`{path}` is not a field of this server", hint="start the server without `--strict`"
                )
            if name in unserved and value is not None and not _is_neutral(value, unserved[name]):
                raise FieldError(path, f"`{path}` is not served, and the answer would differ", hint="leave it out")
            if name not in self._named and len(self._named) < _MAX_NAMED:
                self._named.add(name)
                _LOG.warning("requests have the unknown field %s, which is ignored", repr(path))


def _is_neutral(value: Any, neutral: tuple[Any, ...]) -> bool:
    return any(type(value) is type(other) and value == other for other in neutral)


def _unknown(body: BaseModel, prefix: str) -> Iterator[tuple[str, Any]]:
    """Path and value of each unknown field; the paths have no indices, so that a name is one name."""
    for name, value in (body.model_extra or {}).items():
        yield f"{prefix}{name[:100]}", value
    for name, value in body:
        if isinstance(value, BaseModel):
            yield from _unknown(value, f"{prefix}{name}.")
        elif isinstance(value, list):
            for item in value:
                if isinstance(item, BaseModel):
                    yield from _unknown(item, f"{prefix}{name}[].")
