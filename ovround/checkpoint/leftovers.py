"""What a checkpoint holds beside the decoder's own tensors: wrappers around names, which are stripped, and known extras.

Trainers and wrapping libraries rename tensors (`_orig_mod.` is torch.compile's), and save tensors that the language model
never reads: a value head, scales of a quantised cache, layers that predict further tokens. transformers leaves those out with
a warning. Here a named kind is left out and reported; any other tensor is an error, since a model that needs it would be wrong.

To add a wrapper or a kind, add a line to `WRAPPERS` or `KINDS`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from ovround.checkpoint.text_part import tower_of

_BLOCK = re.compile(r"(.*?\.)(\d+)\.(.+)")


@dataclass(frozen=True, slots=True)
class Wrapper:
    """Part of a name that is no part of the model's: each match of `pattern` becomes `replacement`."""

    pattern: re.Pattern[str]
    what: str
    replacement: str = ""


@dataclass(frozen=True, slots=True)
class Kind:
    """Tensors that may be left out: `pattern` is searched in the whole name, after wrappers are stripped."""

    pattern: re.Pattern[str]
    what: str


WRAPPERS = (
    Wrapper(re.compile(r"(?<![^.])_orig_mod\."), "torch.compile"),
    Wrapper(re.compile(r"(?<![^.])_(?:fsdp|checkpoint)_wrapped_module\."), "FSDP or activation checkpointing"),
    Wrapper(re.compile(r"^module\."), "data parallel training"),
    Wrapper(re.compile(r"^pretrained_model\."), "TRL"),
    Wrapper(re.compile(r"^base_model\.model\."), "PEFT"),
)

KINDS = (
    Kind(
        re.compile(
            r"(?:^|\.)(?:inv_freq|cos_cached|sin_cached|masked_bias|position_ids|rope\.freqs)$|\._extra_state$"
            r"|(?:^|\.)rotary_emb\.\w+$"
        ),
        "buffers that the model computes itself",
    ),
    Kind(
        re.compile(
            r"\.(?:[qkv]|kv|kv_cache|prob|k_cache|v_cache)_(?:scale|zero_point)$|\.[kv]_proj\.(?:output|[kv])_scale$"
            r"|\.kv_cache_scaling_factor$|\.[kv]_bmm_quantizer\._(?:amax|scale)$"
        ),
        "scales of a quantised key/value cache",
    ),
    Kind(
        re.compile(
            r"\.(?:(?:input|output)_(?:scale|zero_point|global_scale|amax)|act(?:ivation)?_scale|(?:input|output)_quantizer\.\w+)$"
        ),
        "scales of quantised activations",
    ),
    Kind(
        re.compile(r"^(?:model\.)?(?:v_head|value_head|q_head|score|reward_head|classifier|qa_outputs)\b"),
        "a head that gives values or scores",
    ),
    Kind(re.compile(r"(?:^|\.)(?:mtp|mtp_layers|nextn|medusa_heads?)\b"), "layers that predict further tokens (MTP)"),
)
_BEHIND = "blocks behind the last that config.json calls for"


def unwrapped(name: str) -> tuple[str, frozenset[str]]:
    """`name` without its wrappers, and who wrapped it."""
    found: set[str] = set()
    while True:
        for wrapper in WRAPPERS:
            shorter = wrapper.pattern.sub(wrapper.replacement, name)
            if shorter != name:
                name = shorter
                found.add(wrapper.what)
                break
        else:
            return name, frozenset(found)


def kind_of(name: str) -> str | None:
    """What the tensor `name` is, if it is of a named kind that may be left out."""
    tower = tower_of(name)
    if tower is not None:
        return f"{tower}, beside the text model"
    return next((kind.what for kind in KINDS if kind.pattern.search(name)), None)


def left_out(names: Iterable[str], expected: Iterable[str]) -> tuple[dict[str, list[str]], list[str]]:
    """Tensors that the decoder does not read: those of each named kind, and those that are foreign to it.

    `expected` are the names that it reads. A block behind the last one is left out if its modules are not those of the last
    one: it predicts further tokens. A block like the others is foreign, since config.json then states too few.
    """
    read = set(expected)
    last = _last_blocks(read)
    kinds: dict[str, list[str]] = {}
    foreign: list[str] = []
    behind: dict[tuple[str, int], list[str]] = {}
    for name in names:
        if name in read:
            continue
        what, inside = kind_of(name), _BLOCK.fullmatch(name)
        if what is not None:
            kinds.setdefault(what, []).append(name)
        elif inside and inside[1] in last and int(inside[2]) > last[inside[1]][0]:
            behind.setdefault((inside[1], int(inside[2])), []).append(name)
        else:
            foreign.append(name)
    for (path, number), held in behind.items():
        modules = {_module(name.removeprefix(f"{path}{number}.")) for name in held}
        (foreign if modules == last[path][1] else kinds.setdefault(_BEHIND, [])).extend(held)
    return kinds, foreign


def notes(kinds: Mapping[str, list[str]]) -> tuple[str, ...]:
    """A sentence for each kind of tensors that is left out."""
    return tuple(
        f"left out: {len(names)} tensor(s) of {what}, such as `{names[0]}`" for what, names in sorted(kinds.items())
    )


def _last_blocks(names: Iterable[str]) -> dict[str, tuple[int, set[str]]]:
    """For each path of numbered blocks, such as `model.layers.`: the last number, and the modules of that block."""
    blocks: dict[str, tuple[int, set[str]]] = {}
    for inside in filter(None, map(_BLOCK.fullmatch, names)):
        number, last = int(inside[2]), blocks.get(inside[1])
        if last is None or number > last[0]:
            blocks[inside[1]] = last = (number, set())
        if number == last[0]:
            last[1].add(_module(inside[3]))
    return blocks


def _module(name: str) -> str:
    return name.rpartition(".")[0] or name
