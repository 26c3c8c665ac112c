"""The weights that an HPU gets: a checkpoint's, quantised or not, or those of a folder that `ovround convert` wrote."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from ovround.artifact.manifest import read_manifest
from ovround.checkpoint import Checkpoint, PackedCheckpoint, mapped, mapped_packed, open_source, read_json
from ovround.errors import EngineError
from ovround.exporters.formats import open_reader
from ovround.models import from_config
from ovround.models.decoder import HEAD, Decoder
from ovround.models.tied_head import stored_apart, with_head
from ovround.tensors.affine_tensor import AffineTensor
from ovround.tensors.codebook_tensor import CodebookTensor
from ovround.tensors.float_tensor import FloatTensor
from ovround.tensors.qtensor import QTensor

Weight = QTensor | FloatTensor
Stored = Weight | AffineTensor | CodebookTensor
_FILES = {"openvino": "openvino_model.xml", "onnx": "model.onnx"}


@dataclass(frozen=True, slots=True)
class Weights:
    """A decoder and how its tensors are read, one at a time."""

    decoder: Decoder
    read: Callable[[str, tuple[int, ...]], Weight]

    def weights(self) -> Iterator[tuple[str, Weight]]:
        """Every tensor by its name, in the model's order."""
        for name, shape in self.decoder.every_tensor().items():
            yield name, self.read(name, shape)


def open_weights(folder: Path) -> Weights:
    """The model in `folder`; raises OvroundError for one that cannot be read, and EngineError for weights of codebooks."""
    written = next((name for name, file in _FILES.items() if (folder / file).is_file()), None)
    if written is not None:
        return _open_converted(folder, written)
    source = open_source(folder)
    decoder = _with_stored_head(from_config(source.config), source)
    ignored = decoder.unused_tensors()
    if isinstance(source, Checkpoint):
        plain = mapped(source, decoder.sources(), decoder.every_tensor())
        plain.check(decoder.every_tensor(), ignored)
        return Weights(decoder, lambda name, shape: plain.read(name))
    quantised = mapped_packed(source, decoder.sources(), decoder.every_tensor())
    quantised.check(decoder.every_tensor(), ignored)

    def read(name: str, shape: tuple[int, ...]) -> Weight:
        return _runnable(name, quantised.read(name, shape))

    return Weights(decoder, read)


def _with_stored_head(decoder: Decoder, source: Checkpoint | PackedCheckpoint) -> Decoder:
    """`decoder`, untied where the folder stores a head that is quantised or differs from the embedding."""
    own = with_head(decoder, own=True)
    if not isinstance(source, Checkpoint):
        if source.packed(HEAD):
            return own
        source = source.stored
    tensors = mapped(source, own.sources(), own.every_tensor())
    return own if stored_apart(decoder, tensors.tensors().__contains__, tensors.read) else decoder


def _runnable(name: str, weight: Stored) -> Weight:
    """`weight` as HPU runs it: affine integers in float32. Raises EngineError for codebooks."""
    if isinstance(weight, AffineTensor):
        return FloatTensor(weight.dequantize(), "float32")
    if not isinstance(weight, QTensor | FloatTensor):
        raise EngineError(f"`{name}` is made of codebooks, which HPU cannot run")
    return weight


def _open_converted(folder: Path, format_name: str) -> Weights:
    """A folder that `ovround convert` wrote in this format; its manifest says what each weight is."""
    records = {record.name: record for record in read_manifest(folder).weights}
    decoder = from_config(read_json(folder / "config.json"))
    decoder = with_head(decoder, own=f"{HEAD}.weight" in records)
    reader = open_reader(format_name, folder, records)

    def read(name: str, shape: tuple[int, ...]) -> Weight:
        if name not in records or records[name].shape != shape:
            raise EngineError(f"`{folder}` has no `{name}` of {list(shape)}", hint="convert again")
        return _runnable(name, reader.read(name))

    return Weights(decoder, read)
