"""An output folder's manifest `ovround.json`: what it records, and the check of the folder against it.

The manifest is written last, so a folder that has one is complete; it holds nothing that differs between two runs with the
same inputs, options and versions, so that such runs give identical bytes.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any, overload

import ovround
from ovround.errors import ArtifactError
from ovround.limits import LIMITS
from ovround.record import load_json, read_record

MANIFEST = "ovround.json"
FORMAT_VERSION = 1
ENGINE_FORMATS = ("openvino", "onnx")
CHECKPOINT_FORMATS = ("auto_round", "gptq", "awq", "compressed-tensors", "olive", "aqlm")
FLOAT16_SCALE_FORMATS = ("auto_round", "gptq", "awq", "gguf")  # what reads them holds scales in float16
CODEBOOK_FORMATS = ("aqlm", *ENGINE_FORMATS)  # whose exporters take a CodebookTensor
FILE_FORMATS = ("gguf",)  # one file that has everything
FORMATS = (*ENGINE_FORMATS, *CHECKPOINT_FORMATS, *FILE_FORMATS)
_CHUNK_BYTES = 1 << 22
_AGAIN = "convert again, or copy the folder again"


@dataclass(frozen=True, slots=True)
class WeightRecord:
    """One weight as emitted; `bits` 16 or 32 for one left in float, whose `group_size` and `symmetric` mean nothing.

    Of one made of codebooks `codebooks` says how many of how many bits, such as 2x8; `bits` is what its codes take of a weight,
    rounded up, and `group_size` the inputs of a vector. Of one with float scales and minimums `affine` is the scheme, such as
    4:32/256-m (`AffineScheme.spec`). `scale_bits` is 32 where float16 cannot hold the scales of integers.
    """

    name: str
    shape: tuple[int, ...]
    bits: int
    group_size: int
    symmetric: bool
    size_bytes: int
    sha256: str
    relative_error: float
    codebooks: str = ""
    affine: str = ""
    scale_bits: int = 16


@dataclass(frozen=True, slots=True)
class BlockRecord:
    """What tuning one block gave: mean squared error of its output on the held-out windows, where tuning began and tuned.

    `unreached` names the experts that no calibration token chose, and that are therefore rounded to nearest.
    """

    index: int
    loss_before: float
    loss_after: float
    steps: int
    unreached: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "unreached", tuple(self.unreached))  # JSON has lists


@dataclass(frozen=True, slots=True)
class SourceType:
    """What became of the tensors of one type of a GGUF file whose integers were kept.

    `grid` says in words what they are now; `relative_error` is |W - Wq| / |W| over all of them, 0 where every number is kept.
    """

    type: str
    grid: str
    tensors: int
    relative_error: float


@dataclass(frozen=True, slots=True)
class Quality:
    """The quantised model against the original on calibration windows that no gradient saw; computed in float32 by torch."""

    tokens: int
    perplexity_original: float
    perplexity_quantised: float
    kl_nats: float


@dataclass(frozen=True, slots=True)
class SampleRecord:
    """The samples that weights were tuned on, and those held out; each has `tokens` tokens and begins with `prefix`."""

    tuned_on: int
    held_out: int
    tokens: int
    prefix: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class FileRecord:
    size_bytes: int
    sha256: str


@dataclass(frozen=True, slots=True)
class Manifest:
    """Everything that `ovround.json` says."""

    ovround_version: str
    format: str
    source_name: str
    model_type: str
    source_files: dict[str, str]
    options: dict[str, Any]
    versions: dict[str, str]
    weights: tuple[WeightRecord, ...]
    blocks: tuple[BlockRecord, ...] = ()
    quality: Quality | None = None
    files: dict[str, FileRecord] = field(default_factory=dict)
    processes: int = 1  # that tuned it together
    compiled: bool = False  # steps, by torch
    source_method: str = ""  # what the source was quantised by, where its integers were kept
    source_way: str = ""  # of a GGUF file: `keep` its integers, or `retune` from the numbers that they stand for
    source_types: tuple[SourceType, ...] = ()  # of one whose integers were kept
    samples: SampleRecord | None = None
    notes: tuple[str, ...] = ()  # how the source was read: what was left out, renamed, or stands for other numbers
    format_version: int = FORMAT_VERSION

    def to_json(self) -> str:
        return json.dumps(asdict(self), indent=1, sort_keys=True) + "\n"


def write_manifest(folder: Path, manifest: Manifest) -> Manifest:
    """Hash every file of `folder`, write `ovround.json` beside them, and return the manifest that was written."""
    names = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
    files = {name: FileRecord((folder / name).stat().st_size, sha256_file(folder / name)) for name in names}
    fields = {name: getattr(manifest, name) for name in Manifest.__slots__}
    complete = Manifest(**{**fields, "files": files})
    (folder / MANIFEST).write_text(complete.to_json(), encoding="utf-8")
    return complete


def read_manifest(folder: Path) -> Manifest:
    """Read `ovround.json`; raises ArtifactError when it is missing, damaged, or of a newer format."""
    path = folder / MANIFEST
    try:
        raw = load_json(path, LIMITS.manifest_bytes)
    except FileNotFoundError:
        raise ArtifactError(
            f"`{folder}` has no {MANIFEST}", hint="folders that `ovround convert` wrote have one"
        ) from None
    except (OSError, ValueError) as error:
        raise ArtifactError(f"`{path}` cannot be read: {error}") from error
    if isinstance(raw, dict) and raw.get("format_version", FORMAT_VERSION) != FORMAT_VERSION:
        raise ArtifactError(
            f"`{path}` has format {raw['format_version']!r:.40}, written by ovround {raw.get('ovround_version')!s:.40}; "
            f"this ovround, {ovround.__version__}, reads format {FORMAT_VERSION}",
            hint="upgrade ovround, or convert again",
        )
    try:
        manifest = read_record(Manifest, raw)
    except TypeError as error:
        raise ArtifactError(f"`{path}` is not a manifest: {error}") from error
    if "format_version" not in raw:
        raise ArtifactError(f"`{path}` is not a manifest: format_version is missing")
    for name, record in manifest.files.items():
        if not _stays_inside(name):
            raise ArtifactError(f"`{path}` names a file outside its folder: `{name}`")
        if record.size_bytes < 0:
            raise ArtifactError(f"`{path}` is not a manifest: files.{name} has {record.size_bytes} bytes")
    return manifest


def _stays_inside(name: str) -> bool:
    """Whether `name` is a file's place below a folder on every system: no root, drive, `..` or character that ends a path."""
    parts = PurePosixPath(name).parts
    return bool(parts) and not name.startswith("/") and ".." not in parts and not set(name) & {"\\", ":", "\0"}


def check_files(folder: Path, manifest: Manifest, *, contents: bool, names: Iterable[str] | None = None) -> None:
    """Compare the folder with its manifest: sizes always, sha256 too when `contents`; raises ArtifactError naming the first file.

    `names`: these files alone.
    """
    for name in manifest.files if names is None else sorted(names):
        check_file(folder, name, manifest.files[name], contents=contents)


def check_file(
    folder: Path, name: str, record: FileRecord, *, contents: bool = True, stop: Callable[[], bool] | None = None
) -> None:
    """Compare one file with what the manifest says of it; raises ArtifactError. `stop` is asked whether to give up."""
    path = folder / name
    if not path.is_file():
        raise ArtifactError(f"`{path}` is missing; {MANIFEST} lists it", hint=_AGAIN)
    if path.stat().st_size != record.size_bytes:
        raise ArtifactError(f"`{path}` has {path.stat().st_size} bytes, {record.size_bytes} were written", hint=_AGAIN)
    if contents:
        digest = sha256_file(path, stop)
        if digest is not None and digest != record.sha256:
            raise ArtifactError(f"`{path}` has changed since it was written", hint=_AGAIN)


@overload
def sha256_file(path: Path) -> str: ...


@overload
def sha256_file(path: Path, stop: Callable[[], bool] | None) -> str | None: ...


def sha256_file(path: Path, stop: Callable[[], bool] | None = None) -> str | None:
    """The file's sha256 in hexadecimal; None where `stop`, which is asked every 4 MB, says so."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK_BYTES):
            if stop is not None and stop():
                return None
            digest.update(chunk)
    return digest.hexdigest()
