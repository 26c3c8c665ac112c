"""Writes docs/reference/ from the code: command line, options and records, errors, families.

    python tools/reference.py            write the pages
    python tools/reference.py --check    exit status 1, naming the page, when one of them is not what the code says

The words are those of the code: declarations of options, help texts of commands, docstrings of dataclasses and of their
fields. The pages depend on nothing else, so that another version of Typer does not make them stale.
"""

from __future__ import annotations

import ast
import dataclasses
import importlib
import inspect
import re
import runpy
import sys
import textwrap
from collections.abc import Callable, Sequence
from dataclasses import MISSING, fields
from pathlib import Path
from typing import Any, get_args, get_origin, get_type_hints

import ovround
import ovround.errors
from ovround.artifact.manifest import BlockRecord, FileRecord, Manifest, Quality, WeightRecord
from ovround.cli import shared_flags
from ovround.cli.app import app
from ovround.conversion.convert import Conversion
from ovround.errors import UsageError
from ovround.exporters.checkpoints.joining import StoredLayout
from ovround.exporters.gguf.suitability import architecture_of
from ovround.measure.bench_options import BenchOptions
from ovround.measure.benchmark import BenchResult
from ovround.measure.perplexity import Evaluation
from ovround.models import families, from_config
from ovround.models.rope import VARIANTS
from ovround.models.standard import ACTIVATIONS
from ovround.options.budget import Budget
from ovround.options.convert_options import ConvertOptions
from ovround.options.layer_rule import LayerRule
from ovround.options.option import DeclaredOption, declared
from ovround.options.recipes import RECIPES, Recipe
from ovround.options.tuning_options import TuningOptions
from ovround.runtime.decoding.completion import Completion, Piece, Timings, Usage
from ovround.runtime.decoding.grammar import Grammar
from ovround.runtime.decoding.logprobs import TokenLogprobs
from ovround.runtime.decoding.sampling import SamplingOptions
from ovround.runtime.devices import Device, Machine
from ovround.runtime.server.settings import ServerSettings
from ovround.tensors.scheme import Codebooks, QuantScheme

FOLDER = Path(__file__).resolve().parent.parent / "docs" / "reference"
NOTE = "<!-- Written by tools/reference.py from the code; `make reference` writes it again. -->\n"
WORDS = {str: "text", int: "number", float: "number", bool: "", Path: "path"}
OPTION_TABLE = ["option", "value", "default", "meaning"]
RECORD_TABLE = ["field", "type", "default", "meaning"]


def pages() -> dict[str, str]:
    """The text of each page by file name."""
    return {"cli.md": cli_page(), "options.md": options_page(), "families.md": families_page()}


def cli_page() -> str:
    parts = [
        "# Command line\n",
        NOTE,
        "Results go to stdout, progress and messages to stderr. Exit status: 0 done, 1 failed, 2 wrong usage, 130 Ctrl-C, "
        "143 terminated. `ovround --debug COMMAND ...` shows the traceback of an error.\n",
    ]
    commands = {command.name or "": command.callback for command in app.registered_commands if command.callback}
    for group in app.registered_groups:
        members = group.typer_instance.registered_commands if group.typer_instance else []
        commands |= {f"{group.name} {member.name}": member.callback for member in members if member.callback}
    parts += [_command(name, function) for name, function in commands.items()]
    parts.append(_shared_flags(list(commands.values())))
    return "\n".join(parts)


def options_page() -> str:
    options = (
        "Each option of a conversion is declared once: the flag of `ovround convert`, the keyword, the entry of the manifest. "
        "The last column says from what sources a conversion takes it: a checkpoint in float, a quantised checkpoint, or an "
        "OpenVINO IR folder. Options marked *resume* must stay the same when an interrupted conversion continues."
    )
    recipes = [
        [f"`{name}`", str(recipe.iters), str(recipe.nsamples), str(recipe.batch_size), str(recipe.end_to_end)]
        for name, recipe in RECIPES.items()
    ]
    parts = [
        "# Options, records and errors\n",
        NOTE,
        "## Names of the package\n",
        _table(
            ["name", "what it is"],
            [[f"`ovround.{name}`", _first_line(getattr(ovround, name))] for name in ovround.__all__],
        ),
        f"## ConvertOptions\n\n{options}\n\n{_after_first(ConvertOptions)}\n",
        _options_table(ConvertOptions),
        f"### TuningOptions\n\n{_first_line(TuningOptions)} As a TOML file for `--tuning`, "
        "or as `ConvertOptions(tuning=...)`; [tuning settings](../guides/tuning-settings.md) says more.\n",
        _options_table(TuningOptions),
        _record(Budget, level=3),
        _record(Codebooks, level=3),
        f"### Recipes\n\n{_first_line(Recipe)}\n",
        _table(["recipe", "iters", "nsamples", "batch_size", "end_to_end"], recipes),
        _record(LayerRule, level=3),
        _record(SamplingOptions),
        _record(Grammar, level=3),
        _record(ServerSettings),
        _record(BenchOptions),
        "## Manifest: `ovround.json`\n\nThe fields are explained in [the artifact](../concepts/artifact.md).\n",
        _record_table(Manifest),
    ]
    records = (WeightRecord, BlockRecord, Quality, FileRecord)
    parts += [_record(record, level=3) for record in records]
    parts.append("## Results\n")
    results = (Conversion, Evaluation, BenchResult, Completion, Piece, Usage, Timings, TokenLogprobs, Device, Machine)
    parts += [_record(record, level=3) for record in results]
    parts.append(_errors())
    return "\n".join(parts)


def families_page() -> str:
    """Family by engine: what the tests run on every configuration, and the limits that they assert."""
    support = runpy.run_path(str(FOLDER.parents[1] / "tests" / "support" / "engine_support.py"))
    limits: dict[tuple[str, str], str] = support["LIMITS"]
    clients = (support["OPENVINO_GENAI"], support["ONNXRUNTIME_GENAI"])
    rows, notes = [], dict.fromkeys(limits.values())
    marks = {note: str(number) for number, note in enumerate(notes, 1)}
    for family in families():
        module = importlib.import_module(f"ovround.models.{family}")
        count = len(module.smallest_configs())
        cells = ["tested"] * 4
        written = [_written(config) for config in module.smallest_configs()]
        for client in clients:
            own = {
                note for (name, engine), note in limits.items() if name.startswith(f"{family}-") and engine == client
            }
            cells.append(" ".join(["tested", *(f"({marks[note]})" for note in sorted(own))]))
        kinds = [_share([checks[kind] for checks in written]) for kind in ("integers", "aqlm", "gguf")]
        rows.append([f"`{family}`", _first_line(module).rstrip("."), str(count), *cells, *kinds])
    parts = [
        "# Families\n",
        NOTE,
        "A family is a `model_type` of config.json. Tested (`tests/test_families.py`): on random models of each configuration, "
        "torch gives the logits of transformers to a relative RMS of 2e-5. ONNX Runtime and OpenVINO give those of torch, to the "
        "same bound, on the integers that `convert` wrote: in one pass, step by step, beyond windows and trained lengths, and in "
        "batches of unequal prompts. The widths, groups, types and recipes vary by a pairwise table (`tests/parity_table.py`), "
        "and each family is tuned at least once. The two other runtimes give the same greedy tokens "
        "(`tests/test_clients.py`, openvino_genai with both of its attention back ends). HPU stands for the emulation on the "
        "CPU, held to torch at 2e-4 (`tests/runtime/test_hpu.py`). Torch is tested on CPUs; no other "
        "device was at hand. Of these families no trained model but Llamas was run.\n",
        "The last three columns say how many of the configurations are written as checkpoints: integers (auto_round, GPTQ, AWQ, "
        "compressed-tensors, Olive), AQLM, and GGUF for llama.cpp. Projections that a family's checkpoints join are joined again "
        "(`tests/checkpoint/test_joined_families.py`); those of several codebooks cannot be, nor what lies turned (GPT-2), with "
        "other experts (gpt-oss, Granite) or other layers (Gemma's inputs by layer), for which loaders have no layer. GPTQ, AWQ and "
        "auto_round need sizes that 32 divides.\n",
        _table(
            [
                *(
                    "family",
                    "what it is",
                    "configurations",
                    "tune",
                    "OpenVINO",
                    "ONNX",
                    "torch, HPU emulated",
                    *clients,
                ),
                *("integers out", "AQLM out", "GGUF out"),
            ],
            rows,
        ),
        *(f"({mark}) {note}\n" for note, mark in marks.items()),
        f"Rope: {', '.join(f'`{one}`' for one in VARIANTS)}, of a part of a head where the family has that. "
        f"Activations: {', '.join(f'`{one}`' for one in ACTIVATIONS)}.\n",
        "ONNX Runtime's attention takes head sizes that are multiples of 8; OpenVINO takes any.\n",
    ]
    return "\n".join(parts)


def _written(config: dict[str, Any]) -> dict[str, bool]:
    """Which kinds of checkpoints a configuration is written as."""
    decoder = from_config(config)
    linears = [name for layer in range(decoder.config.num_hidden_layers) for name in decoder.linears(layer)]
    checks: dict[str, Callable[[], object]] = {
        "integers": lambda: StoredLayout(decoder).check("gptq", dict.fromkeys(linears, QuantScheme(4, 16, True))),
        "aqlm": lambda: StoredLayout(decoder).check("aqlm", dict.fromkeys(linears, Codebooks(2, 8, 8))),
        "gguf": lambda: architecture_of(decoder, config),
    }
    return {kind: _passes(check) for kind, check in checks.items()}


def _passes(check: Callable[[], object]) -> bool:
    try:
        check()
    except UsageError:
        return False
    return True


def _share(passed: Sequence[bool]) -> str:
    """`yes`, `no` or `1 of 2`."""
    if all(passed) or not any(passed):
        return "yes" if all(passed) else "no"
    return f"{sum(passed)} of {len(passed)}"


def _command(name: str, function: Callable[..., None]) -> str:
    if name == "quantize":
        return f"## ovround {name}\n\n{_first_line(function)}\n\nIts flags are those of `ovround convert` without `--format`.\n"
    arguments, rows, shared = [], [], []
    hints = get_type_hints(function, include_extras=True)
    for parameter in inspect.signature(function).parameters.values():
        info = get_args(hints[parameter.name])[1]
        if type(info).__name__ == "ArgumentInfo":
            word = parameter.name.upper()
            required = parameter.default is inspect.Parameter.empty
            arguments.append(word if required else f"[{word}]")
            rows.append([f"`{word}`", "required" if required else "", "", info.help or ""])
        elif parameter.name in _shared(info):
            shared.append(f"`{_flags(parameter.name, info)}`")
        else:
            rows.append(_row(parameter, hints[parameter.name]))
    usage = " ".join(["ovround", name, *arguments, "[OPTIONS]"])
    more = f"\nAnd the [shared flags](#shared-flags) {', '.join(shared)}.\n" if shared else ""
    return f"## ovround {name}\n\n{_first_line(function)}\n\n    {usage}\n\n{_table(OPTION_TABLE, rows)}{more}"


def _row(parameter: inspect.Parameter, hint: Any) -> list[str]:
    """The row of a flag: spellings, value, default, help."""
    kind, info = get_args(hint)[:2]
    default = "required" if parameter.default is inspect.Parameter.empty else _shown(parameter.default)
    default = "" if kind is bool and default == "no" else default
    return [f"`{_flags(parameter.name, info)}`", _value(kind), default, info.help or ""]


def _shared(info: Any) -> list[str]:
    """The parameter names of a flag of `shared_flags`; none for another flag."""
    names = [name for name, hint in vars(shared_flags).items() if get_args(hint)[1:] and get_args(hint)[1] is info]
    return [re.sub(r"(?<=.)([A-Z])", r"_\1", name).lower() for name in names]


def _shared_flags(commands: Sequence[Callable[..., None]]) -> str:
    rows: dict[str, list[str]] = {}
    for function in commands:
        hints = get_type_hints(function, include_extras=True)
        for parameter in inspect.signature(function).parameters.values():
            if parameter.name in _shared(get_args(hints[parameter.name])[1]):
                rows.setdefault(parameter.name, _row(parameter, hints[parameter.name]))
    return f"## Shared flags\n\n{_table(OPTION_TABLE, list(rows.values()))}"


def _options_table(record: type) -> str:
    """Every declared option of a record: its field, flag, type, default, help, and where it counts; keys of a file have no flag."""
    head = ["field", "flag", "type", "default", "meaning", "sources"]
    rows = [_option_row(entry) for entry in declared(record)]
    if any(row[1] for row in rows):
        return _table(head, rows)
    return _table([head[0], *head[2:5]], [[row[0], *row[2:5]] for row in rows])


def _option_row(entry: DeclaredOption) -> list[str]:
    flag = f"`{entry.flag}`" if entry.option.panel is not None else ""
    default = "" if dataclasses.is_dataclass(entry.default) else _shown(entry.default)
    kind = entry.inner.__name__ + (", several" if entry.repeatable else "")
    where = [*entry.option.sources, *(["*resume*"] if entry.option.fingerprint != "none" else [])]
    choices = f" One of {_shown(entry.choices)}." if entry.choices and entry.option.panel is None else ""
    return [f"`{entry.name}`", flag, f"`{kind}`", default, f"{entry.option.help}{choices}", ", ".join(where)]


def _flags(name: str, info: Any) -> str:
    """All spellings of an option; Typer keeps the first one that is given where a default could stand."""
    first = [info.default] if isinstance(info.default, str) else []
    return " ".join([*first, *info.param_decls]) or f"--{name.replace('_', '-')}"


def _value(kind: Any) -> str:
    """The word for a flag's value: `number`, `text, repeatable`, nothing for a switch."""
    inner = [member for member in get_args(kind) if member is not type(None)]
    if get_origin(kind) is list:
        return f"{WORDS[inner[0]]}, repeatable"
    return _value(inner[0]) if inner else WORDS[kind]


def _record(record: type, level: int = 2) -> str:
    about = inspect.cleandoc(record.__doc__ or "")
    about = "" if about.startswith(f"{record.__name__}(") else f"{about}\n\n"  # a dataclass without a docstring
    return f"{'#' * level} {record.__name__}\n\n{about}{_record_table(record)}"


def _record_table(record: type, meanings: dict[str, str] | None = None) -> str:
    meanings = meanings or _field_docstrings(record)
    rows = []
    for field in fields(record):
        default = "" if field.default is MISSING else _shown(field.default)
        rows.append([f"`{field.name}`", f"`{field.type}`".replace("|", "\\|"), default, meanings.get(field.name, "")])
    columns = 4 if any(row[3] for row in rows) else 3 if any(row[2] for row in rows) else 2
    return _table(RECORD_TABLE[:columns], [row[:columns] for row in rows])


def _field_docstrings(record: type) -> dict[str, str]:
    """The string that follows each field of a dataclass, by the field's name."""
    (node,) = ast.parse(textwrap.dedent(inspect.getsource(record))).body
    assert isinstance(node, ast.ClassDef)  # noqa: S101  for the type checker: the source of a class is a class
    docstrings = {}
    for field, following in zip(node.body, node.body[1:], strict=False):
        if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name) and isinstance(following, ast.Expr):
            docstrings[field.target.id] = " ".join(str(ast.literal_eval(following.value)).split())
    return docstrings


def _errors() -> str:
    lines = (ovround.errors.__doc__ or "").splitlines()
    tree = [line.removeprefix("    ") for line in lines if line.startswith("    ")]
    rules = "Exit status 2 for UsageError, 1 for all others. `str(error)` is the message, `error.hint` the way out, or None."
    return "\n".join(["## Errors\n", rules, "", "```text", *tree, "```", ""])


def _first_line(named: object) -> str:
    return (inspect.getdoc(named) or "").split("\n")[0]


def _after_first(record: type) -> str:
    return " ".join((inspect.getdoc(record) or "").partition("\n\n")[2].split())


def _shown(default: object) -> str:
    if default is None:
        return ""
    if isinstance(default, bool):
        return "yes" if default else "no"
    if isinstance(default, (list, tuple)):
        return ", ".join(f"`{item}`" for item in default)
    return f"`{default}`" if default != "" else ""


def _table(head: list[str], rows: list[list[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "".join(f"| {' | '.join(cells)} |\n" for cells in lines).replace("<", "\\<")


def main(arguments: list[str]) -> int:
    if arguments not in ([], ["--check"]):
        print("usage: python tools/reference.py [--check]", file=sys.stderr)
        return 2
    stale = []
    for name, text in pages().items():
        path = FOLDER / name
        if path.is_file() and path.read_text(encoding="utf-8") == text:
            continue
        if arguments:
            stale.append(name)
        else:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")
    for name in stale:
        print(f"error: docs/reference/{name} is not what the code says\nhint: make reference", file=sys.stderr)
    return 1 if stale else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
