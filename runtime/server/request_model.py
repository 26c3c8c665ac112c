"""What all objects of a request have in common: unknown fields are kept aside, and null stands for a field's default.

Clients send back what they received, with fields that a server does not know and with nulls for what is absent.
`unknown_fields` reports or refuses what a request holds beyond its fields.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, get_args

from pydantic import BaseModel, BeforeValidator, ConfigDict, StringConstraints, model_validator

from ovround.limits import LIMITS

Name = Annotated[str, StringConstraints(max_length=1000)]
Text = Annotated[str, StringConstraints(max_length=LIMITS.request_body_bytes)]


class RequestModel(BaseModel):
    """An object of a request. The types of its fields are strict; `model_extra` has the unknown fields."""

    model_config = ConfigDict(extra="allow", strict=True)
    unserved: ClassVar[Mapping[str, tuple[Any, ...]]] = {}
    """Further unknown fields that bind the answer, as in `unknown_fields.UNSERVED`."""

    @model_validator(mode="before")
    @classmethod
    def _without_nulls(cls, value: Any) -> Any:
        """Leave out null for a field that has a default and no null of its own."""
        if not isinstance(value, dict):
            return value
        return {name: item for name, item in value.items() if item is not None or cls._takes_null(name)}

    @classmethod
    def _takes_null(cls, name: str) -> bool:
        field = cls.model_fields.get(name)
        return field is None or field.is_required() or type(None) in get_args(field.annotation)


def _whole(value: Any) -> Any:
    """40.0 as 40: JSON does not tell them apart."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _limit(value: Any) -> Any:
    """-1 as None: llama.cpp's and LM Studio's sign for no limit."""
    whole = _whole(value)
    return None if whole == -1 and not isinstance(whole, bool) else whole


Whole = BeforeValidator(_whole)
Limit = BeforeValidator(_limit)
