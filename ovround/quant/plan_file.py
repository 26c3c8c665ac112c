"""`ovround-plan.json`: the scheme of every module as a file, which `--plan` reads.

{"format_version": 1, "modules": {"model.layers.0.mlp.down_proj": {"bits": 3, "group_size": 128, "sym": true},
                                  "lm_head": {"bits": 16}}}
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from ovround.errors import UsageError
from ovround.models.decoder import HEAD, Decoder
from ovround.quant.plan import Plan, check_experts, check_groups
from ovround.tensors.qtensor import BITS, GROUP_SIZES
from ovround.tensors.scheme import FLOAT_BITS, AffineScheme, QuantScheme

PLAN_FILE = "ovround-plan.json"
FORMAT_VERSION = 1


def plan_as_json(plan: Plan) -> dict[str, Any]:
    """Plain values, modules in the model's order."""
    modules = {
        name: {"bits": scheme.bits, "group_size": scheme.group_size, "sym": scheme.symmetric}
        if isinstance(scheme, QuantScheme)
        else {"bits": FLOAT_BITS}
        if scheme is None
        else {"affine": scheme.spec}
        if isinstance(scheme, AffineScheme)
        else {"codebooks": str(scheme), "vector_size": scheme.vector_size}
        for name, scheme in plan.items()
    }
    return {"format_version": FORMAT_VERSION, "modules": modules}


def plan_digest(plan: Plan) -> str:
    """sha256 of the schemes of all modules."""
    return hashlib.sha256(json.dumps(plan_as_json(plan)).encode()).hexdigest()


def write_plan(path: Path, plan: Plan) -> None:
    """Write `plan`; equal plans give equal bytes."""
    path.write_text(json.dumps(plan_as_json(plan), indent=1) + "\n", encoding="utf-8")


def read_plan(path: Path, decoder: Decoder) -> Plan:
    """The plan in `path`, in the model's order; raises UsageError when it is none, or none for this model."""
    try:
        raw = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UsageError(f"plan `{path}` does not exist") from None
    except (OSError, ValueError, RecursionError) as error:
        raise UsageError(f"plan `{path}` cannot be read: {error}") from error
    modules = raw.get("modules") if isinstance(raw, dict) else None
    if not isinstance(modules, dict) or raw.get("format_version") != FORMAT_VERSION:
        raise UsageError(
            f"`{path}` is no plan of format {FORMAT_VERSION}",
            hint=f"a conversion with a budget writes one, {PLAN_FILE}",
        )
    layers = range(decoder.config.num_hidden_layers)
    inside = [name for layer in layers for name in (*decoder.tables(layer), *decoder.linears(layer))]
    expected = [decoder.embedding_at, *inside, HEAD]
    unknown = [name for name in modules if name not in set(expected)]
    optional = HEAD if decoder.head_at != HEAD else None
    missing = [name for name in expected if name not in modules and name != optional]
    if unknown or missing:
        what = f"names `{unknown[0]}`, which the model does not have" if unknown else f"does not name `{missing[0]}`"
        raise UsageError(f"plan `{path}` {what}", hint="it belongs to another model")
    plan: Plan = {name: _scheme(path, name, modules[name]) for name in expected if name in modules}
    check_experts(decoder, plan)
    check_groups(decoder, plan)
    return plan


def _scheme(path: Path, name: str, entry: Any) -> QuantScheme | None:
    if entry == {"bits": FLOAT_BITS}:
        return None
    match entry:
        case {"bits": int(bits), "group_size": int(group_size), "sym": bool(sym), **rest} if not rest:
            if bits in BITS and group_size in GROUP_SIZES:
                return QuantScheme(bits, group_size, sym)
    raise UsageError(
        f"plan `{path}`: `{name}` has the scheme {json.dumps(entry)[:80]}",
        hint=f"bits: {', '.join(map(str, BITS))}, or {FLOAT_BITS} alone; "
        f"group_size: {', '.join(map(str, GROUP_SIZES))}; sym: true or false",
    )
