"""A checkpoint under the decoder's names: tensors that lie there renamed, joined or transposed are taken apart as they are read."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

from ovround.checkpoint.hf import Checkpoint
from ovround.checkpoint.safetensors_file import TensorInfo
from ovround.errors import TensorError
from ovround.floattensor import FloatTensor
from ovround.tensor_source import TensorSource

_ITEM_BYTES = {"F32": 4, "F16": 2, "BF16": 2}


@dataclass(frozen=True, slots=True)
class MappedCheckpoint(Checkpoint):
    """See `Checkpoint`; `sources` says of each tensor of the decoder where it lies in `inner`, `shapes` what comes of it."""

    inner: Checkpoint
    sources: Mapping[str, TensorSource]
    shapes: Mapping[str, tuple[int, ...]]

    def tensors(self) -> dict[str, TensorInfo]:
        found = self.inner.tensors()
        return {
            name: self._info(name, found[source.name]) for name, source in self.sources.items() if source.name in found
        }

    def read(self, name: str, index: int | None = None) -> FloatTensor:
        if index is not None:
            raise ValueError(f"part {index} of `{name}`, which is a part itself")
        if name not in self.sources:
            raise TensorError(f"`{self.folder}` has no tensor `{name}`")
        source = self.sources[name]
        return source.take(self.inner.read(source.name, source.index))

    def check(self, expected: dict[str, tuple[int, ...]], ignored: Iterable[str] = ()) -> None:
        sources = [self.sources[name] for name in expected]
        self.inner.check({source.name: source.shape for source in sources}, ignored)

    def _info(self, name: str, info: TensorInfo) -> TensorInfo:
        """What the tensor will be once it is read; its offset is that of the tensor that it is taken from."""
        shape, count = self.shapes[name], 1
        for size in shape:
            count *= size
        dtype = "F32" if self.sources[name].add else info.dtype
        return TensorInfo(dtype, shape, info.offset, count * _ITEM_BYTES.get(dtype, 1))


def mapped(
    checkpoint: Checkpoint, sources: Mapping[str, TensorSource], shapes: Mapping[str, tuple[int, ...]]
) -> Checkpoint:
    """`checkpoint` under the names of `sources`, itself where every tensor is used as it lies.

    A tensor that is not there under its own name is looked for where it may lie otherwise.
    A checkpoint that was saved without its head has names without their first part (`h.0.ln_1` for `transformer.h.0.ln_1`).
    """
    found = checkpoint.tensors()
    sources = {name: _present(source, found) for name, source in sources.items()}
    first = next(iter(sources.values())).name
    prefix, _, rest = first.partition(".")
    if first not in found and rest in found:
        sources = {
            name: replace(source, name=source.name.removeprefix(f"{prefix}.")) for name, source in sources.items()
        }
    if all(source.is_plain and source.name == name for name, source in sources.items()):
        return checkpoint
    return MappedCheckpoint(checkpoint.folder, checkpoint.config, checkpoint.files, checkpoint, sources, shapes)


def _present(source: TensorSource, found: Mapping[str, TensorInfo]) -> TensorSource:
    other = source.otherwise
    return other if other is not None and source.name not in found and other.name in found else source
