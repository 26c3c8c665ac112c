"""Flags of declared options: the parameters of a Typer command, and the options that its arguments give."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping
from types import GenericAlias
from typing import Annotated, Any

import typer
from typer.core import TyperCommand

from ovround.options.convert_options import ConvertOptions
from ovround.options.option import DeclaredOption, declared

_WHOLE = 1000  # characters: more than any first sentence has


def flag_parameters(record: type, only: Iterable[str] = ()) -> list[inspect.Parameter]:
    """One keyword parameter an option of `record` that has a flag, annotated as Typer reads it; `only`: of these alone."""
    return [
        inspect.Parameter(
            entry.name, inspect.Parameter.KEYWORD_ONLY, default=_default(entry), annotation=_annotation(entry)
        )
        for entry in declared(record)
        if entry.option.panel is not None and (not only or entry.name in only)
    ]


def with_flags(command: Callable[..., None], parameters: Iterable[inspect.Parameter]) -> None:
    """Give the command the parameters in place of its `**options`, as Typer looks for them."""
    own = [
        parameter
        for parameter in inspect.signature(command).parameters.values()
        if parameter.kind is not inspect.Parameter.VAR_KEYWORD
    ]
    hints = inspect.get_annotations(command, eval_str=True)
    own = [
        parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY, annotation=hints[parameter.name]) for parameter in own
    ]
    first = [parameter for parameter in own if parameter.default is inspect.Parameter.empty]
    signature = [
        *first,
        *parameters,
        *(parameter for parameter in own if parameter.default is not inspect.Parameter.empty),
    ]
    command.__signature__ = inspect.Signature(signature)  # type: ignore[attr-defined]
    command.__annotations__ = {parameter.name: parameter.annotation for parameter in signature} | {"return": None}


def options_from(given: Mapping[str, Any], record: type[ConvertOptions] = ConvertOptions) -> ConvertOptions:
    """The options that the arguments of a command state; raises UsageError."""
    return record(**{entry.name: _value(entry, given[entry.name]) for entry in declared(record) if entry.name in given})


class PanelCommand(TyperCommand):
    """A command whose help page lists its options by panel, and whose first sentence stands whole in the list of commands."""

    def get_short_help_str(self, limit: int = 45) -> str:
        return super().get_short_help_str(limit=_WHOLE)

    def collect_usage_pieces(self, ctx: Any) -> list[str]:
        """Arguments as the texts call them, MODEL: newer versions of Typer write {model}."""
        return [piece.replace("{", "").replace("}", "").upper() for piece in super().collect_usage_pieces(ctx)]

    def format_options(self, ctx: Any, formatter: Any) -> None:
        sections: dict[str, list[tuple[str, str]]] = {}
        for parameter in self.get_params(ctx):
            row = parameter.get_help_record(ctx)
            if row is not None:
                title = getattr(parameter, "rich_help_panel", None) or "Options"
                sections.setdefault("Arguments" if parameter.param_type_name == "argument" else title, []).append(row)
        rest = sections.pop("Options", [])
        for title, rows in (sections | {"Options": rest}).items():
            if rows:
                with formatter.section(title):
                    formatter.write_dl(rows)


def _annotation(entry: DeclaredOption) -> Any:
    kind: Any = entry.inner if entry.option.parse is None else str
    if entry.repeatable:
        kind = GenericAlias(list, (kind,))
    wanted = kind if _default(entry) is not None else kind | None
    return Annotated[wanted, typer.Option(entry.flag, help=entry.option.help, rich_help_panel=entry.option.panel)]


def _default(entry: DeclaredOption) -> Any:
    """The default as a flag has it: none where the flag's text becomes a type of ours."""
    if entry.default == ():
        return None
    if entry.option.parse is not None:
        return str(entry.default) if isinstance(entry.default, int) else None
    return list(entry.default) if entry.repeatable else entry.default


def _value(entry: DeclaredOption, given: Any) -> Any:
    if given is None:
        return entry.default
    parse = entry.option.parse
    if entry.repeatable:
        return tuple(given) if parse is None else tuple(parse(text) for text in given)
    return given if parse is None else parse(given)
