"""A checkpoint with LoRA adapters merged in: each changed tensor is computed in float32 as it is read, and nothing else is touched."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from ovround.checkpoint.files.element_types import TensorInfo
from ovround.checkpoint.hf import Checkpoint
from ovround.checkpoint.leftovers import kind_of
from ovround.checkpoint.lora.adapter import Adapter
from ovround.checkpoint.lora.arithmetic import Floats, change, is_turned, rows_replaced, with_magnitude
from ovround.checkpoint.text_part import PREFIXES
from ovround.errors import CheckpointError, TensorError
from ovround.tensors.float_tensor import FloatTensor

_STARTS = (*PREFIXES, "model.", "transformer.", "gpt_neox.")  # of names, which differ between models and checkpoints
Changes = dict[str, tuple[tuple[Adapter, str], ...]]
"""By a tensor's name: which adapters change it by which module."""


@dataclass(frozen=True, slots=True)
class AdaptedCheckpoint(Checkpoint):
    """See `Checkpoint`; `changes` says for a tensor's name which adapters change it by which module, in order.

    A tied head is one of them where an adapter changes embedding and head unlike: it is `copies`' tensor of the base then.
    """

    inner: Checkpoint
    adapters: tuple[Adapter, ...]
    changes: Mapping[str, tuple[tuple[Adapter, str], ...]]
    copies: Mapping[str, str]
    kept: object = None
    """What `folder` lasts as long as, where it is temporary."""

    def tensors(self) -> dict[str, TensorInfo]:
        infos = self.inner.tensors()
        infos |= {name: infos[base] for name, base in self.copies.items()}
        for name, changes in self.changes.items():
            shape = infos[name].shape
            for adapter, module in changes:
                whole = adapter.modules.get(module, {}).get("weight")
                shape = shape if whole is None else adapter.shape(whole)
            infos[name] = TensorInfo("F32", shape, infos[name].offset, math.prod(shape) * 4)
        return infos

    def read(self, name: str, index: int | None = None) -> FloatTensor:
        base = self.copies.get(name, name)
        if name not in self.changes:
            return self.inner.read(base, index)
        values = self.inner.read(base).float32()
        original = values
        for adapter, module in self.changes[name]:
            values, original = _changed(adapter, module, values, original)
        return FloatTensor(np.ascontiguousarray(values if index is None else values[index]), "float32")

    def read_columns(self, name: str, columns: slice) -> FloatTensor:
        if name not in self.changes:
            return self.inner.read_columns(self.copies.get(name, name), columns)
        tensor = self.read(name)
        return FloatTensor(np.ascontiguousarray(tensor.data[:, columns]), tensor.dtype)

    def size_bytes(self) -> int:
        return sum(info.size_bytes for info in self.tensors().values())

    def scan(self) -> dict[str, str]:
        digests = self.inner.scan()
        for number, adapter in enumerate(self.adapters):
            for name, digest in adapter.scan().items():
                digests[name if name not in digests else f"{name} ({number})"] = digest
        return digests


def adapted(
    base: Checkpoint, adapters: Sequence[Adapter], embedding: str, head: str, *, tied: bool
) -> AdaptedCheckpoint:
    """`base` with `adapters` merged in, one after the other; `embedding` and `head` are the names of their weights in it.

    A tied head stays as it is where only the embedding is changed, and the other way round: so the adapter was trained, and so
    PEFT computes it until it merges. Raises CheckpointError for a change of a tensor that the base does not have, and
    TensorError for one of another shape.
    """
    infos = base.tensors()
    copies = {head: embedding} if tied and head not in infos else {}
    changes, left_out = _changes(base, adapters, {_tail(name): name for name in (*infos, *copies)}, copies)
    if copies and embedding in changes and _rows_alone(changes[embedding]) and head not in changes:
        changes[head] = changes[embedding]  # new rows of a tied embedding are the head's too
    if not changes.keys() & {head, embedding}:
        copies = {}
    notes = [
        f"adapter {adapter.name} is merged into the base model"
        + (f", {adapter.scale:g} of it" if adapter.scale != 1 else "")
        for adapter in adapters
    ]
    notes += [f"left out: {what}" for what in sorted(left_out)]
    merged = AdaptedCheckpoint(
        base.folder, base.config, base.files, base, tuple(adapters), changes, copies, notes=(*base.notes, *notes)
    )
    for name, of_adapters in changes.items():
        for adapter, module in of_adapters:
            _check_shapes(adapter, module, name, infos[copies.get(name, name)].shape)
    rows = {merged.tensors()[name].shape[0] for name in (embedding, head) if name in changes}
    if len(rows) == 1 and rows != {infos[embedding].shape[0]}:
        return replace(merged, config={**base.config, "vocab_size": rows.pop()})
    return merged


def _changes(
    base: Checkpoint, adapters: Sequence[Adapter], at: Mapping[str, str], copies: Mapping[str, str]
) -> tuple[Changes, set[str]]:
    """The changes of each tensor, in order, and what was left out, in words; `at` finds a tensor by its `_tail`."""
    changes: Changes = {}
    left_out: set[str] = set()
    for adapter in adapters:
        for module, tensors in adapter.modules.items():
            is_bias = module.endswith(".bias")
            target = at.get(_tail(module if is_bias else f"{module}.weight"))
            if target is None:
                what = kind_of(module if is_bias else f"{module}.weight")
                if what is None:
                    raise CheckpointError(
                        f"adapter `{adapter.name}` changes `{module}`, which `{base.folder}` does not have",
                        hint="it belongs to another base model (adapter_config.json: base_model_name_or_path "
                        f"{adapter.config.get('base_model_name_or_path')!r:.100})",
                    )
                left_out.add(f"the change of {what}")
                continue
            if tensors.keys() != {"weight"} or not _is_copy(adapter, module, base, copies.get(target, target)):
                changes[target] = (*changes.get(target, ()), (adapter, module))
            if "bias" in tensors:
                bias = at.get(_tail(f"{module}.bias"))
                if bias is None:
                    raise CheckpointError(
                        f"adapter `{adapter.name}` adds to the bias of `{module}`, which the base model does not have",
                        hint="PEFT cannot merge such an adapter either (lora_bias)",
                    )
                changes[bias] = (*changes.get(bias, ()), (adapter, f"{module}.lora_B"))
    return changes, left_out


def _changed(adapter: Adapter, module: str, values: Floats, original: Floats) -> tuple[Floats, Floats]:
    """`values` with the adapter's change of `module`, and the base's own values, which a replaced tensor is from now on."""
    if module.endswith(".lora_B"):
        owner = adapter.modules[module.removesuffix(".lora_B")]
        rank = adapter.shape(owner["b"])[1]
        added = adapter.read(owner["bias"]).float32() * np.float32(
            adapter.scaling(module.removesuffix(".lora_B"), rank)
        )
        return values + added, original
    tensors = adapter.modules[module]
    if "weight" in tensors:
        values = original = adapter.read(tensors["weight"]).float32()
    if "rows" in tensors:
        values = rows_replaced(values, adapter.token_indices(module), adapter.read(tensors["rows"]).float32())
    if "a" not in tensors:
        return values, original
    a, b = adapter.read(tensors["a"]).float32(), adapter.read(tensors["b"]).float32()
    turned = is_turned(values.shape, a.shape, b.shape, stated=_stated_turned(adapter, tensors["a"]))
    added = change(a, b, adapter.scaling(module, a.shape[0]))
    added = added.T if turned else added
    merged = values + added
    if "magnitude" in tensors:
        parts = [part.T if turned else part for part in (merged, original, added)]
        merged = with_magnitude(parts[0], parts[1], parts[2], adapter.read(tensors["magnitude"]).float32())
        merged = merged.T if turned else merged
    return merged, original


def _stated_turned(adapter: Adapter, tensor: str) -> bool:
    """Whether a square weight lies as `[K, N]`: an embedding's do, and those of a model that says fan_in_fan_out."""
    return "lora_embedding" in tensor or adapter.config.get("fan_in_fan_out") is True


def _check_shapes(adapter: Adapter, module: str, name: str, stored: tuple[int, ...]) -> None:
    """Raise TensorError where a change does not fit the tensor `name` of this shape."""
    tensors = adapter.modules.get(module)
    if tensors is None:  # a bias
        tensors = {"weight": adapter.modules[module.removesuffix(".lora_B")]["bias"]}
    whole = tensors.get("weight")
    if whole is not None and (len(adapter.shape(whole)) != len(stored) or adapter.shape(whole)[1:] != stored[1:]):
        raise _misfit(adapter, module, name, adapter.shape(whole), stored)
    stored = stored if whole is None else adapter.shape(whole)
    if "a" in tensors:
        a, b = adapter.shape(tensors["a"]), adapter.shape(tensors["b"])
        turned = is_turned(stored, a, b, stated=_stated_turned(adapter, tensors["a"]))
        if turned is None:
            raise _misfit(adapter, module, name, (*b, *a), stored)
        if "magnitude" in tensors and math.prod(adapter.shape(tensors["magnitude"])) != b[0]:
            raise _misfit(adapter, module, name, adapter.shape(tensors["magnitude"]), stored)
        adapter.scaling(module, a[0])
    if "rows" in tensors:
        indices, rows = adapter.token_indices(module), adapter.shape(tensors["rows"])
        if rows != (len(indices), *stored[1:]) or max(indices) >= stored[0]:
            raise _misfit(adapter, module, name, rows, stored)


def _misfit(adapter: Adapter, module: str, name: str, shape: tuple[int, ...], stored: tuple[int, ...]) -> TensorError:
    return TensorError(
        f"adapter `{adapter.name}` changes `{module}` by {list(shape)}, which does not fit `{name}` {list(stored)}",
        hint="it belongs to another base model",
    )


def _is_copy(adapter: Adapter, module: str, base: Checkpoint, target: str) -> bool:
    """Whether a whole tensor is the base's own, which PEFT saves beside adapters of embeddings."""
    whole = adapter.modules[module]["weight"]
    if adapter.shape(whole) != base.tensors()[target].shape:
        return False
    return bool(np.array_equal(adapter.read(whole).float32(), base.read(target).float32()))


def _rows_alone(changes: tuple[tuple[Adapter, str], ...]) -> bool:
    return all(adapter.modules[module].keys() == {"rows"} for adapter, module in changes)


def _tail(name: str) -> str:
    """The name of a tensor without what comes before its model's own parts."""
    start = next((start for start in _STARTS if name.startswith(start)), "")
    return name.removeprefix(start)
