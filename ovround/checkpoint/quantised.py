"""A checkpoint that is quantised already: its integers, read unchanged, and its float tensors.

`quant_method` in config.json names the method; `_FORMATS` says which file beside this one reads it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol

from ovround.checkpoint.files.json_object import read_json
from ovround.checkpoint.formats import aqlm, auto_round, awq, compressed_tensors, gptq, olive
from ovround.checkpoint.formats.bitsandbytes import open_bitsandbytes
from ovround.checkpoint.formats.decoded import open_decoded
from ovround.checkpoint.formats.mlx import open_mlx
from ovround.checkpoint.formats.mxfp4 import open_mxfp4
from ovround.checkpoint.formats.packed import Array, Format, Packed
from ovround.checkpoint.gguf import GgufCheckpoint, find_gguf, open_gguf
from ovround.checkpoint.hf import Checkpoint, open_folder
from ovround.errors import CheckpointError, TensorError
from ovround.tensors.float_tensor import FloatTensor
from ovround.tensors.scheme import AffineScheme, QuantScheme

_FORMATS: dict[str, Callable[[Mapping[str, Any]], Format]] = {
    "aqlm": aqlm.Format, "auto-round": auto_round.Format, "awq": awq.Format,
    "compressed-tensors": compressed_tensors.Format, "gptq": gptq.Format, "olive": olive.Format,
}  # fmt: skip
_MXFP4 = "mxfp4"  # levels that are bfloat16 numbers, and are read as such
_FLOATS = ("fbgemm_fp8", "fp8", "modelopt")  # levels that are floats with scales: see `decoded`
_MIXED = "compressed-tensors"  # integers, floats, or some of each
_ALIASES = {"intel/auto-round": "auto-round", "modelopt_fp4": "modelopt"}
_SETTINGS_FILES = {
    "quantize_config.json": "gptq",
    "quant_config.json": "awq",
    "hf_quant_config.json": "modelopt",
}  # before config.json had a place for them
_REASONS = {"hqq": "its zero points are fractions"}
_BITSANDBYTES, _MLX = "bitsandbytes", "mlx"  # uneven levels, and levels with a float minimum: read as floats


class PackedCheckpoint(Protocol):
    """A source whose weights are quantised, as a conversion uses it."""

    @property
    def method(self) -> str:
        """The name of its quantisation."""
        ...

    @property
    def stored(self) -> Checkpoint:
        """Its folder, config.json, and tensors as they lie in safetensors files."""
        ...

    @property
    def folder(self) -> Path: ...

    @property
    def config(self) -> dict[str, Any]: ...

    def packed(self, module: str) -> bool:
        """Whether `module`'s weight is quantised."""
        ...

    def scheme(self, module: str) -> QuantScheme | AffineScheme | None:
        """The scheme of `module`'s weight as stored; None where it is in float or made of codebooks."""
        ...

    def check(self, expected: Mapping[str, tuple[int, ...]], ignored: Iterable[str] = ()) -> tuple[str, ...]:
        """Compare headers with what the architecture expects; raises TensorError for the first difference.

        Returns a sentence for each kind of tensors that is left out.
        """
        ...

    def read(self, name: str, shape: tuple[int, ...]) -> FloatTensor | Packed:
        """A weight or float tensor of this shape; raises TensorError for contents that contradict each other."""
        ...

    def relative_error(self, name: str) -> float:
        """|W - Wq| / |W| of a weight that was read: above 0 where no grid of ours holds it exactly."""
        ...

    def scan(self) -> dict[str, str]:
        """sha256 of each weights file, having checked every float value; raises TensorError for NaN or infinity."""
        ...


@dataclass(frozen=True, slots=True)
class QuantisedCheckpoint:
    """An opened folder; nothing but headers has been read. `stored` has the tensors as they lie, packed ones too."""

    stored: Checkpoint
    method: str
    format: Format
    _names: frozenset[str] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_names", frozenset(self.stored.tensors()))

    @property
    def folder(self) -> Path:
        return self.stored.folder

    @property
    def config(self) -> dict[str, Any]:
        return self.stored.config

    def packed(self, module: str) -> bool:
        """Whether `module`'s weight is quantised."""
        return f"{module}.{self.format.mark}" in self._names

    def scheme(self, module: str) -> QuantScheme | None:
        """The scheme of `module`'s weight as stored; None where it is in float or made of codebooks."""
        return self.format.scheme(module) if self.packed(module) else None

    def check(self, expected: Mapping[str, tuple[int, ...]], ignored: Iterable[str] = ()) -> tuple[str, ...]:
        """As `Checkpoint.check`, each packed weight by its parts; raises TensorError for the first difference."""
        infos = self.stored.tensors()
        plain = dict(expected)
        used: set[str] = set()
        for name, shape in expected.items():
            module = name.removesuffix(".weight")
            if module == name or len(shape) != 2 or not self.packed(module):
                continue
            del plain[name]
            parts = self.format.parts(module, (shape[0], shape[1]))
            if name in infos and "weight" not in parts:
                raise TensorError(f"`{module}` is there packed and in float", hint="the checkpoint is damaged")
            if not parts:
                raise TensorError(
                    f"`{module}` is packed, yet quantization_config leaves it in float",
                    hint="config.json belongs to another model",
                )
            for suffix, part in parts.items():
                used.add(f"{module}.{suffix}")
                info = infos.get(f"{module}.{suffix}")
                if info is None and part.optional:
                    continue
                if info is None:
                    raise TensorError(
                        f"`{self.folder}` has no tensor `{module}.{suffix}`, which {self.method} calls for",
                        hint="a shard may be missing, or quantization_config belongs to another model",
                    )
                if info.shape != part.shape or info.dtype not in part.dtypes:
                    raise TensorError(
                        f"tensor `{module}.{suffix}` is {info.dtype} {list(info.shape)}; config.json calls for "
                        f"{' or '.join(part.dtypes)} {list(part.shape)}",
                        hint="quantization_config belongs to another model",
                    )
            bias = f"{module}.bias"
            if bias in infos and bias not in expected and not self.stored.read(bias).float32().any():
                used.add(bias)  # AutoGPTQ used to write zeros for layers without one
        return self.stored.check(plain, (*ignored, *sorted(used)))

    def read(self, name: str, shape: tuple[int, ...]) -> FloatTensor | Packed:
        """A weight or float tensor of this shape; raises TensorError for contents that contradict each other or the configuration."""
        module = name.removesuffix(".weight")
        if module == name or not self.packed(module):
            return self.stored.read(name)
        try:
            return self.format.decode(module, (shape[0], shape[1]), self._arrays(module, (shape[0], shape[1])))
        except ValueError as error:
            raise TensorError(
                f"`{module}` cannot be read: {error}", hint="integers are kept as they are, or not at all"
            ) from error

    def relative_error(self, name: str) -> float:
        """0: integers are kept as they are."""
        return 0.0

    def scan(self) -> dict[str, str]:
        """As `Checkpoint.scan`."""
        return self.stored.scan()

    def size_bytes(self) -> int:
        """Bytes of all tensors."""
        return self.stored.size_bytes()

    def _arrays(self, module: str, shape: tuple[int, int]) -> dict[str, Array]:
        return {
            suffix: file.read_array(f"{module}.{suffix}")
            for suffix in self.format.parts(module, shape)
            for file in self.stored.files
            if f"{module}.{suffix}" in file.tensors
        }


def methods() -> list[str]:
    """The quantisation methods that can be read, as config.json names them, sorted."""
    return sorted((*_FORMATS, *_FLOATS, _MXFP4, _BITSANDBYTES, _MLX))


def open_source(folder: Path) -> Checkpoint | QuantisedCheckpoint | GgufCheckpoint:
    """Open any checkpoint folder, quantised or not, one that ovround wrote in a checkpoint format, or a GGUF file.

    Raises CheckpointError for a missing or damaged file and for a quantisation that cannot be read.
    """
    gguf = folder if folder.is_file() else find_gguf(folder)
    if gguf is not None:
        return open_gguf(gguf)
    checkpoint = open_folder(folder)
    settings = quantization_config(checkpoint.folder, checkpoint.config)
    if settings is None:
        return checkpoint
    method = quantisation_method(str(folder), settings)
    if method == _BITSANDBYTES:
        return open_bitsandbytes(checkpoint)
    if method == _MLX:
        return open_mlx(checkpoint, settings)
    if method == _MXFP4:
        return open_mxfp4(checkpoint)
    if method in _FLOATS:
        return _decoded(checkpoint, method, settings.get("weight_block_size"), _activation_notes(settings))
    if method != _MIXED:
        return QuantisedCheckpoint(checkpoint, method, open_format(method, settings))
    opened = compressed_tensors.Format(settings)
    if opened.floats:
        checkpoint = _decoded(checkpoint, method, opened.block_size, opened.notes)
    else:
        checkpoint = replace(checkpoint, notes=(*checkpoint.notes, *opened.notes))
    return QuantisedCheckpoint(checkpoint, method, opened) if opened.integers else checkpoint


def quantisation_method(where: str, settings: Mapping[str, Any]) -> str:
    """The method that a quantization_config names; raises CheckpointError for one that cannot be read."""
    stated = str(settings.get("quant_method") or "none")
    method = _ALIASES.get(stated, stated)
    if method == "none" and {"bits", "group_size"} <= settings.keys():
        method = _MLX  # which names no method
    if settings.get("load_in_4bit") or settings.get("load_in_8bit"):
        method = _BITSANDBYTES
    if method in methods():
        return method
    reason = f": {_REASONS[method]}" if method in _REASONS else ""
    raise CheckpointError(
        f"`{where}` is quantised by `{method:.40}` (quant_method), which cannot be read{reason}",
        hint=f"{', '.join(methods())} can be; or start from the original, unquantised checkpoint",
    )


def _decoded(checkpoint: Checkpoint, method: str, block_size: object, notes: Iterable[str]) -> Checkpoint:
    """`checkpoint` with its small floats decoded; raises CheckpointError where there are none."""
    decoded = open_decoded(checkpoint, block_size)
    if decoded is None:
        raise CheckpointError(
            f"`{checkpoint.folder}` is quantised by `{method}`, yet no weight in 4-bit or 8-bit floats was found in it",
            hint="quantization_config belongs to another model, or its integers are of a format that is not read: "
            "start from the original checkpoint",
        )
    return replace(decoded, notes=(*decoded.notes, *notes))


def _activation_notes(settings: Mapping[str, Any]) -> list[str]:
    """What a configuration of 8-bit floats says of activations."""
    inner = settings.get("quantization") if isinstance(settings.get("quantization"), Mapping) else settings
    stated = settings.get("activation_scheme") or (inner or {}).get("quant_algo")
    return [f"quantisation of activations ({stated!s:.40}) is left out: they stay in float"] if stated else []


def open_format(method: str, settings: Mapping[str, Any]) -> Format:
    """The format of a method, for the settings that a checkpoint's quantization_config states."""
    return _FORMATS[method](settings)


def quantization_config(folder: Path, config: Mapping[str, Any]) -> dict[str, Any] | None:
    """What config.json, or the file that older libraries wrote beside it, says of quantisation; None where nothing does."""
    settings, mlx = config.get("quantization_config"), config.get("quantization")
    if isinstance(mlx, dict) and not (isinstance(settings, dict) and settings.get("quant_method")):
        settings = mlx  # which says more: modules of their own width
    if settings:
        if not isinstance(settings, dict):
            raise CheckpointError(
                f"`{folder / 'config.json'}`: quantization_config is {settings!r:.40}; an object is needed"
            )
        return settings
    for name, method in _SETTINGS_FILES.items():
        if (folder / name).is_file():
            return {"quant_method": method, **read_json(folder / name)}
    return None
