"""Finished blocks on disk: a conversion that was stopped or killed continues from them.

The folder `.NAME.ovround-work` beside the output folder NAME holds

    job.json                     the fingerprint: everything that the integers depend on, which must be equal to continue
    time.json                    what `--time` has chosen, where it was given
    tuned-00000.safetensors      one finished block: packed codes, scales, zero points, or codebooks; the header's metadata holds the
                                 block's record, and each tensor's sha256, as in the manifest
    tuned-outside.safetensors    the same for the tensors outside the blocks
    tuned-quality.json           the quality that was measured once all blocks were finished

Each file is written beside itself, flushed and renamed. A tensor that is equal to the checkpoint's is only noted. A later pass
over all blocks writes a stage of its own; the stage is the first word of the file names.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load, save

from ovround.artifact.manifest import BlockRecord, Quality
from ovround.artifact.output_folder import make_folder, nothing_kept, output_error, remove_folder, write_atomically
from ovround.checkpoint import Checkpoint
from ovround.errors import OutputError, ResumeError
from ovround.models.decoder import Decoder
from ovround.quant.emitted import Emitted, Event, FinishedBlock, StoredWeight
from ovround.tensors.codebook_tensor import CodebookTensor
from ovround.tensors.float_tensor import FloatTensor
from ovround.tensors.packing import PACKED_BITS, pack_rows, unpack_rows
from ovround.tensors.qtensor import QTensor

TUNED = "tuned"  # the first stage: every block tuned by itself
END_TO_END = "end-to-end"  # the second: all blocks tuned together
PV = "pv-tuning"  # the third: the same with PV-Tuning
FORMAT_VERSION = 1
_JOB = "job.json"
_CODEBOOK_PARTS = ("codes", "codebooks", "scales")

Arrays = dict[str, NDArray[Any]]


class BlockStore:
    """The working folder of one conversion; `block_store` makes it, and `begin` comes before anything is read or written."""

    def __init__(self, folder: Path, checkpoint: Checkpoint, blocks: int) -> None:
        self.folder, self.blocks = folder, blocks
        self._checkpoint = checkpoint
        self._job = ""

    def begin(self, fingerprint: Mapping[str, str]) -> None:
        """Make the folder, or continue with an existing one; `fingerprint` has everything that the integers depend on.

        Raises ResumeError naming each entry that has changed since the folder was made, OutputError for a full disk or
        something else in the folder's place.
        """
        try:
            _check_fingerprint(self, fingerprint)
            remove_unfinished(self.folder)
        except OSError as error:
            raise output_error(error, self.folder, self.kept) from error
        self._job = _sha256(json.dumps(dict(fingerprint), sort_keys=True))

    def finished(self, stage: str = TUNED) -> int:
        """The number of blocks that have a file of this stage, whole or not."""
        return sum(self.has(layer, stage) for layer in range(self.blocks))

    def has(self, layer: int | None, stage: str = TUNED) -> bool:
        return self._path(layer, stage).is_file()

    def kept(self) -> str:
        """For messages: which blocks are kept when the conversion ends now."""
        if not self.finished():
            return nothing_kept()
        onward = "; the same command continues" if self._job else ""
        return f"{self.finished()} of {self.blocks} blocks are kept in `{self.folder}`{onward}"

    def write(
        self, layer: int | None, tensors: Sequence[Emitted], record: BlockRecord | None, stage: str = TUNED
    ) -> FinishedBlock:
        """Store one block, or the tensors outside the blocks for None; it replaces any of the same stage, whole or not at all.

        Raises OSError, for a full disk too.
        """
        arrays: Arrays = {}
        entries = [self._entry(tensor, arrays) for tensor in tensors]
        content = {
            "format_version": FORMAT_VERSION, "job": self._job, "stage": stage, "layer": layer,
            "record": None if record is None else asdict(record), "tensors": entries,
        }  # fmt: skip
        text = json.dumps(content)
        write_atomically(self._path(layer, stage), save(arrays, {"block": text, "sha256": _sha256(text)}))
        return FinishedBlock(tuple(tensors), record)

    def read(self, layer: int | None, stage: str = TUNED) -> FinishedBlock:
        """One block, every tensor compared with its sha256; raises ResumeError for a damaged or missing file."""
        path = self._path(layer, stage)
        try:
            data = path.read_bytes()
            arrays = load(data)
            metadata = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])["__metadata__"]
            content = _checked(metadata["block"], metadata["sha256"])
            if (content["format_version"], content["job"], content["stage"], content["layer"]) != (
                FORMAT_VERSION, self._job, stage, layer,
            ):  # fmt: skip
                raise ValueError("it belongs to another conversion")
            tensors = tuple(self._tensor(entry, arrays) for entry in content["tensors"])
            record = None if content["record"] is None else BlockRecord(**content["record"])
        except (OSError, SafetensorError, KeyError, TypeError, ValueError, RecursionError) as error:
            raise ResumeError(f"`{path}` is damaged: {error}", hint="the same command makes it again") from error
        return FinishedBlock(tensors, record)

    def write_quality(self, quality: Quality, stage: str = TUNED) -> None:
        """Store the quality of a finished stage."""
        text = json.dumps({"job": self._job, **asdict(quality)})
        write_atomically(self._quality_path(stage), json.dumps({"quality": text, "sha256": _sha256(text)}).encode())

    def read_quality(self, stage: str = TUNED) -> Quality | None:
        """The quality of a stage; None where it was not measured, or its file is damaged."""
        try:
            metadata = json.loads(self._quality_path(stage).read_bytes())
            content = _checked(metadata["quality"], metadata["sha256"])
            if content.pop("job") != self._job:
                return None
            return Quality(**content)
        except (OSError, KeyError, TypeError, ValueError, RecursionError):
            return None

    def emit(self, decoder: Decoder, stage: str = TUNED) -> Iterator[Event]:
        """The finished model in the order of `decoder`: every tensor, each tuned block's record, and the quality last.

        Raises ResumeError for a block that was damaged since it was written.
        """
        outside, front = self.read(None, stage).tensors, len(decoder.first_tensors())
        yield from outside[:front]
        for layer in range(self.blocks):
            yield from self.read(layer, stage).events()
        yield from outside[front:]
        quality = self.read_quality(stage)
        if quality is not None:
            yield quality

    def complete(self, stage: str = TUNED) -> bool:
        """Whether every block of the stage is there, whole, and its quality has been measured; reads them all."""
        if self.read_quality(stage) is None or self.finished(stage) < self.blocks:
            return False
        try:
            for layer in (None, *range(self.blocks)):
                self.read(layer, stage)
        except ResumeError:
            return False
        return True

    def remove(self) -> None:
        """Remove the folder."""
        remove_folder(self.folder)

    def _path(self, layer: int | None, stage: str) -> Path:
        return self.folder / f"{stage}-{'outside' if layer is None else f'{layer:05d}'}.safetensors"

    def _quality_path(self, stage: str) -> Path:
        return self.folder / f"{stage}-quality.json"

    def _entry(self, tensor: Emitted, arrays: Arrays) -> dict[str, Any]:
        name, weight = tensor.name, tensor.weight
        entry = {"name": name, "relative_error": tensor.relative_error, "sha256": weight.digest()}
        if isinstance(weight, FloatTensor):
            if self._checkpoint.read(name).digest() == entry["sha256"]:
                return {**entry, "kind": "source"}
            arrays[name] = np.ascontiguousarray(weight.data)
            return {**entry, "kind": weight.dtype}
        if tensor.offsets is not None:
            arrays[f"{name}.offsets"] = np.ascontiguousarray(tensor.offsets)
            entry["offsets_sha256"] = _digest(tensor.offsets)
        if isinstance(weight, CodebookTensor):
            arrays |= {f"{name}.{part}": np.ascontiguousarray(getattr(weight, part)) for part in _CODEBOOK_PARTS}
            return {**entry, "kind": "codebooks"}
        if not isinstance(weight, QTensor):
            raise TypeError(f"`{name}` is affine: such integers are kept as they are, and never tuned")
        arrays[f"{name}.codes"] = np.ascontiguousarray(pack_rows(weight.codes, _stored_bits(weight.bits)))
        arrays[f"{name}.scales"] = np.ascontiguousarray(weight.scales)
        if weight.zero_points is not None:
            arrays[f"{name}.zero_points"] = np.ascontiguousarray(weight.zero_points)
        return {**entry, "kind": "quantised", "bits": weight.bits, "columns": weight.shape[1]}

    def _tensor(self, entry: dict[str, Any], arrays: Arrays) -> Emitted:
        name, kind = entry["name"], entry["kind"]
        weight: StoredWeight
        if kind == "codebooks":
            weight = CodebookTensor(*(arrays[f"{name}.{part}"] for part in _CODEBOOK_PARTS))
        elif kind == "quantised":
            codes = unpack_rows(arrays[f"{name}.codes"], _stored_bits(entry["bits"]), entry["columns"])
            weight = QTensor(codes, arrays[f"{name}.scales"], arrays.get(f"{name}.zero_points"), entry["bits"])
        else:
            weight = self._checkpoint.read(name) if kind == "source" else FloatTensor(arrays[name], kind)
        if weight.digest() != entry["sha256"]:
            raise ValueError(f"`{name}` is not what was written")
        offsets = arrays.get(f"{name}.offsets")
        if (None if offsets is None else _digest(offsets)) != entry.get("offsets_sha256"):
            raise ValueError(f"the latent levels of `{name}` are not what was written")
        return Emitted(name, weight, entry["relative_error"], offsets)


@contextlib.contextmanager
def block_store(out: Path, checkpoint: Checkpoint, blocks: int) -> Iterator[BlockStore]:
    """The working folder of `out`, removed when all ends well.

    After an error, finished blocks stay, and a note on the exception says where.
    """
    store = BlockStore(working_folder(out.absolute()), checkpoint, blocks)
    try:
        yield store
    except BaseException as error:
        if not store.finished():
            store.remove()
        else:
            remove_unfinished(store.folder)
            if not isinstance(error, ResumeError) and store.kept() not in str(error):
                add_note(error, store.kept())
        raise
    store.remove()


def working_folder(out: Path) -> Path:
    """The folder of finished blocks until the output folder `out` is there."""
    return out.parent / f".{out.name}.ovround-work"


def _check_fingerprint(store: BlockStore, fingerprint: Mapping[str, str]) -> None:
    folder, job = store.folder, store.folder / _JOB
    if folder.is_symlink() or (folder.exists() and not folder.is_dir()):
        raise OutputError(f"`{folder}` exists and is no folder", hint="remove it, or choose another output folder")
    make_folder(folder)
    try:
        before = {str(name): str(value) for name, value in json.loads(job.read_bytes()).items()}
    except (FileNotFoundError, ValueError, AttributeError, RecursionError):
        before = None  # not yet written, or damaged: each block names its job
    if before == dict(fingerprint):
        return
    if before is not None and store.finished():
        raise ResumeError(
            f"{store.finished()} of {store.blocks} blocks in `{folder}` were made from other inputs: "
            f"{'; '.join(_differences(before, fingerprint))}",
            hint=f"restore what has changed to continue, or start over: rm -r {shlex.quote(str(folder))}",
        )
    write_atomically(job, json.dumps(dict(fingerprint), indent=1, sort_keys=True).encode())


def _differences(before: Mapping[str, str], now: Mapping[str, str]) -> list[str]:
    names = [*now, *(name for name in before if name not in now)]
    return [
        f"{name} was {before.get(name, 'not there')}, is {now.get(name, 'not there')}"
        for name in names
        if before.get(name) != now.get(name)
    ]


def remove_unfinished(folder: Path) -> None:
    """Remove half-written files of a killed process, and mapped activations."""
    for path in [*folder.glob("*.partial"), *folder.glob("*.activations")]:
        path.unlink(missing_ok=True)


def add_note(error: BaseException, text: str) -> None:
    """`BaseException.add_note`, which Python 3.10 lacks; newer ones print it below the traceback."""
    error.__notes__ = [*getattr(error, "__notes__", ()), text]


def _stored_bits(bits: int) -> int:
    """Three bits do not divide a byte and are stored in four."""
    return next(size for size in PACKED_BITS if size >= bits)


def _checked(text: str, sha256: str) -> dict[str, Any]:
    if _sha256(text) != sha256:
        raise ValueError("its metadata has changed")
    content = json.loads(text)
    if not isinstance(content, dict):
        raise TypeError("its metadata is no JSON object")
    return content


def _digest(array: NDArray[Any]) -> str:
    return hashlib.sha256(np.ascontiguousarray(array).data).hexdigest()


def _sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
