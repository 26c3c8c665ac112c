"""Where each of the decoder's tensors lies in a GGUF file: in which tensor, in which rows, in which order.

Read and written files share these places. A file that is read may keep projections joined or apart, experts stacked
(`ffn_gate_exps`), stacked with gate and up together (`ffn_gate_up_exps`) or one by one (`ffn_gate.0`, as until April 2024).
"""

from __future__ import annotations

import re
from collections.abc import Container, Mapping
from dataclasses import dataclass, replace

from ovround.checkpoint.gguf.architectures import Architecture
from ovround.tensors.tensor_source import Rows

Shape = tuple[int, ...]
_BLOCK = re.compile(r"model\.layers\.(\d+)\.(.+)")
_EXPERT = re.compile(r"mlp\.experts\.(\d+)\.(\w+)")
_QKV = ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj")
_HEADS = {"self_attn.q_proj": "num_attention_heads", "self_attn.k_proj": "num_key_value_heads"}
_FALCON_NORMS = {"input_layernorm": "attn_norm_2", "post_attention_layernorm": "attn_norm"}  # of a block with both
_STACKS = {"gate_proj": "ffn_gate", "up_proj": "ffn_up", "down_proj": "ffn_down"}


@dataclass(frozen=True, slots=True)
class Place:
    """A tensor of the decoder: part `index` of the first axis of `tensor` (an expert), and of that `rows`.

    `heads` above 0: that many heads, row i of each at 2i and row i + D/2 at 2i + 1. `other`: the tensor with the odd rows,
    where `tensor` has the even ones (gpt-oss's gate and up). All values lie as they are computed with.
    """

    tensor: str
    rows: Rows | None = None
    index: int | None = None
    heads: int = 0
    other: str | None = None

    @property
    def tensors(self) -> tuple[str, ...]:
        return (self.tensor,) if self.other is None else (self.tensor, self.other)


def places(
    architecture: Architecture,
    shapes: Mapping[str, Shape],
    config: Mapping[str, object],
    present: Container[str] | None = None,
) -> dict[str, Place]:
    """The place of each tensor in `shapes`, by the decoder's name; `config` is config.json, which counts the heads.

    `present` are the tensors of a file that is read; None for one that is written.
    """
    return {name: _place(architecture, name, shapes, config, present) for name in shapes}


def _place(
    architecture: Architecture,
    name: str,
    shapes: Mapping[str, Shape],
    config: Mapping[str, object],
    present: Container[str] | None,
) -> Place:
    module, _, kind = name.rpartition(".")
    match = _BLOCK.fullmatch(module)
    if match is None and module == "lm_head" and present is not None and f"output.{kind}" not in present:
        return Place(f"token_embd.{kind}")  # tied, and given a scheme of its own
    if match is None:
        return Place(f"{architecture.module(module)}.{kind}")
    at, inside = f"blk.{match[1]}", match[2]
    if kind == "sinks":
        return Place(f"{at}.{architecture.module(inside)}.weight")
    expert = _EXPERT.fullmatch(inside)
    if expert:
        return _expert(at, int(expert[1]), expert[2], kind, shapes[name], present)
    block = name.removesuffix(f"{inside}.{kind}")
    two_norms = f"{block}post_attention_layernorm.weight" in shapes
    names = _FALCON_NORMS if architecture.name == "falcon" and two_norms else {}
    plain = Place(f"{at}.{names.get(inside) or architecture.module(inside)}.{kind}")
    if architecture.paired and inside in _HEADS:
        heads = config.get(_HEADS[inside]) or config["num_attention_heads"]
        plain = replace(plain, heads=heads if isinstance(heads, int) else 0)
    if inside in _QKV and _joined(architecture, f"{at}.attn_qkv.{kind}", plain.tensor, present):
        sizes = [shapes[f"{block}{part}.{kind}"][0] for part in _QKV]
        return replace(plain, tensor=f"{at}.attn_qkv.{kind}", rows=_part(sizes, _QKV.index(inside)))
    gate, up = f"{block}mlp.gate_proj.{kind}", f"{at}.ffn_up.{kind}"
    gated = inside in ("mlp.gate_proj", "mlp.up_proj") and gate in shapes
    if gated and _joined(architecture, up, f"{at}.ffn_gate.{kind}", present):
        size = shapes[gate][0]
        return Place(up, _part([size, size], int(inside == "mlp.up_proj")))
    return plain


def _joined(architecture: Architecture, joined: str, apart: str, present: Container[str] | None) -> bool:
    """Whether several projections lie in the tensor `joined`; in a file that has both names, each is what it says."""
    if present is None:
        return joined.split(".")[2] in architecture.joined
    return apart not in present and joined in present


def _part(sizes: list[int], index: int) -> Rows:
    start = sum(sizes[:index])
    return Rows(start, start + sizes[index], sum(sizes))


def _expert(at: str, expert: int, part: str, kind: str, shape: Shape, present: Container[str] | None) -> Place:
    """One expert's projection; `gate_up_proj` is gpt-oss's, whose rows alternate between gate and up."""
    if part == "gate_up_proj":
        return Place(f"{at}.ffn_gate_exps.{kind}", index=expert, other=f"{at}.ffn_up_exps.{kind}")
    stack, alone = f"{at}.{_STACKS[part]}_exps.{kind}", f"{at}.{_STACKS[part]}.{expert}.{kind}"
    together = f"{at}.ffn_gate_up_exps.{kind}"
    if present is not None and stack not in present:
        if alone in present:
            return Place(alone)
        if together in present and part != "down_proj":
            return Place(together, _part([shape[0], shape[0]], int(part == "up_proj")), expert)
    return Place(stack, index=expert)
