"""Values of the types that a client's package declares for its requests and responses."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel
from typing_extensions import get_type_hints, is_typeddict  # pydantic's; the clients declare their types with them


def examples(kind: Any) -> Iterator[Any]:
    """Values of one of the client's types: an object has all its fields, each of their values occurs once."""
    origin, inner = get_origin(kind), get_args(kind)
    if origin is Annotated:
        yield from examples(inner[0])
    elif origin is Literal:
        yield from inner
    elif origin is Union or type(kind).__name__ == "UnionType":
        for member in inner:
            yield from examples(member)
    elif isinstance(origin, type) and issubclass(origin, Mapping):
        yield {}
    elif origin in (list, Iterable) or (isinstance(origin, type) and issubclass(origin, Iterable)):
        yield from ([value] for value in examples(inner[0]))
    elif isinstance(kind, type) and (issubclass(kind, BaseModel) or is_typeddict(kind)):
        yield from objects(field_types(kind))
    else:
        yield {str: "{}", int: 1, float: 0.5, bool: False, type(None): None}.get(kind, {})


def field_types(kind: Any) -> dict[str, Any]:
    if issubclass(kind, BaseModel):
        return {name: field.annotation for name, field in kind.model_fields.items()}
    return get_type_hints(kind)


def objects(hints: dict[str, Any]) -> Iterator[dict[str, Any]]:
    values = {name: list(examples(kind)) for name, kind in hints.items()}
    for turn in range(max(map(len, values.values()), default=0)):
        yield {name: of_name[min(turn, len(of_name) - 1)] for name, of_name in values.items()}
