"""GGUF files of the llama family (llama.cpp), beside the config.json and tokenizer of the model that they were made of.

A block type becomes a `QTensor` where its values fit one of our schemes, with float16 scales and whole zero points:

| type | value | as |
|---|---|---|
| Q4_0 | d (q - 8) | symmetric, 4 bits, groups of 32 |
| Q8_0 | d q | symmetric, 8 bits, groups of 32 |
| Q4_1 | d q + m | 4 bits, groups of 32, where every m / d is a whole number from -255 to 0 |
| Q6_K | d s (q - 32) | symmetric, 8 bits, groups of 16, where every d s is a float16 number |
| Q4_K, Q2_K | d s q - e m | groups of 32 and 16, where d s is a float16 number and e m / d s a whole one |

The last four seldom do: a block's linear layer that does not is refused, an embedding or head in a K type is de-quantised to
float32, as llama.cpp computes it. llama.cpp keeps the rows of q_proj and k_proj in pairs (`permute` of its converter).
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ovround.checkpoint.hf import Checkpoint, read_json
from ovround.checkpoint.safetensors_file import ARRAY_TYPES, FLOAT_TYPES
from ovround.errors import CheckpointError, MissingExtraError, TensorError
from ovround.tensors.float_tensor import FloatTensor
from ovround.tensors.qtensor import QTensor
from ovround.tensors.scheme import QuantScheme

if TYPE_CHECKING:
    from gguf import ReaderTensor

Bytes = NDArray[np.uint8]
GroupedLevels = tuple[
    Bytes, NDArray[np.float32], NDArray[np.float32]
]  # codes [N, K], scales [N, G], zero points [N, G]

_SCHEMES = {
    "Q4_0": QuantScheme(4, 32, True), "Q8_0": QuantScheme(8, 32, True), "Q4_1": QuantScheme(4, 32, False),
    "Q6_K": QuantScheme(8, 16, True), "Q4_K": QuantScheme(4, 32, False), "Q2_K": QuantScheme(2, 16, False),
}  # fmt: skip
_TABLES = ("model.embed_tokens", "lm_head")
_NAMES = {
    "model.embed_tokens": "token_embd", "model.norm": "output_norm", "lm_head": "output",
    "input_layernorm": "attn_norm", "post_attention_layernorm": "ffn_norm", "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k", "self_attn.v_proj": "attn_v", "self_attn.o_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up", "mlp.down_proj": "ffn_down",
}  # fmt: skip
_UNUSED = ("rope_freqs.weight",)  # llama 3's rope factors, which config.json states


@dataclass(frozen=True, slots=True)
class GgufCheckpoint:
    """An opened file; its tensors are mapped, and read when they are asked for."""

    path: Path
    config: dict[str, Any]
    tensors: Mapping[str, ReaderTensor]
    method: str = "gguf"

    @property
    def folder(self) -> Path:
        return self.path.parent

    @property
    def stored(self) -> Checkpoint:
        return Checkpoint(self.folder, self.config, ())

    def packed(self, module: str) -> bool:
        """Whether `module`'s weight is quantised here; an embedding or head in a K type is de-quantised."""
        tensor = self.tensors.get(_name(f"{module}.weight"))
        if tensor is None or tensor.tensor_type.name in FLOAT_TYPES:
            return False
        return not (module in _TABLES and tensor.tensor_type.name.endswith("_K"))

    def scheme(self, module: str) -> QuantScheme | None:
        return _SCHEMES.get(self._type(f"{module}.weight")) if self.packed(module) else None

    def check(self, expected: Mapping[str, tuple[int, ...]], ignored: Iterable[str] = ()) -> tuple[str, ...]:
        """Compare names, shapes and types with what the architecture expects; raises TensorError for the first difference."""
        for name, shape in expected.items():
            tensor = self.tensors.get(_name(name))
            if tensor is None:
                raise TensorError(
                    f"`{self.path}` has no tensor `{_name(name)}`, which its config.json calls for",
                    hint="config.json belongs to another model",
                )
            stored = tuple(int(size) for size in reversed(tensor.shape))
            if stored != shape:
                raise TensorError(
                    f"tensor `{_name(name)}` has shape {list(stored)}; its config.json calls for {list(shape)}",
                    hint="config.json belongs to another model",
                )
            if self._type(name) not in (*FLOAT_TYPES, *_SCHEMES):
                raise TensorError(
                    f"tensor `{_name(name)}` is {self._type(name)}; {', '.join((*FLOAT_TYPES, *_SCHEMES))} can be read",
                    hint="Q4_0 and Q8_0 files keep every integer",
                )
        known = {_name(name) for name in expected}
        extra = [name for name in self.tensors if name not in known and name not in _UNUSED]
        if extra:
            raise TensorError(
                f"`{self.path}` has {len(extra)} tensor(s) that its config.json does not call for, such as `{extra[0]}`",
                hint="config.json belongs to another model, or this variant is not supported",
            )
        return ()

    def read(self, name: str, shape: tuple[int, ...]) -> FloatTensor | QTensor:
        """A weight or float tensor of this shape; raises TensorError where no scheme holds its values exactly."""
        data = np.asarray(self.tensors[_name(name)].data)
        kind = self._type(name)
        rows = self._rows(name, shape)
        if kind in FLOAT_TYPES:
            return FloatTensor(np.ascontiguousarray(_floats(data, kind).reshape(shape)[rows]), FLOAT_TYPES[kind])
        blocks = np.ascontiguousarray(data.view(np.uint8).reshape(shape[0], -1)[rows])
        codes, scales, zero_points = _DECODERS[kind](blocks)
        if not self.packed(name.removesuffix(".weight")):
            group = shape[1] // scales.shape[1]
            values = codes.reshape(*scales.shape, group).astype(np.float32) * scales[:, :, None]
            values -= (scales * zero_points)[:, :, None] if kind == "Q6_K" else _minimum(blocks, kind)[:, :, None]
            return FloatTensor(values.reshape(shape), "float32")
        return _exact(_name(name), kind, codes, scales, zero_points)

    def scan(self) -> dict[str, str]:
        """sha256 of the file, having looked at every float tensor; raises TensorError for NaN or infinity."""
        for name, tensor in self.tensors.items():
            kind = tensor.tensor_type.name
            if kind in FLOAT_TYPES:
                values = FloatTensor(_floats(np.asarray(tensor.data), kind).reshape(-1), FLOAT_TYPES[kind])
                if not np.isfinite(values.float32()).all():
                    raise TensorError(f"`{name}` in `{self.path}` holds NaN or infinity", hint="get the file again")
        digest = hashlib.sha256()
        with self.path.open("rb") as file:
            while chunk := file.read(1 << 22):
                digest.update(chunk)
        return {self.path.name: digest.hexdigest()}

    def size_bytes(self) -> int:
        """Bytes of all tensors."""
        return sum(int(tensor.n_bytes) for tensor in self.tensors.values())

    def _type(self, name: str) -> str:
        return str(self.tensors[_name(name)].tensor_type.name)

    def _rows(self, name: str, shape: tuple[int, ...]) -> NDArray[np.intp] | slice:
        """The rows of a tensor in Hugging Face's order: row i of a head lies at 2i, row i + D/2 at 2i + 1."""
        module = name.removesuffix(".weight").removesuffix(".bias")
        heads = {"q_proj": "num_attention_heads", "k_proj": "num_key_value_heads"}.get(module.rpartition(".")[2])
        if heads is None:
            return slice(None)
        count = int(self.config.get(heads) or self.config["num_attention_heads"])
        return np.arange(shape[0]).reshape(count, -1, 2).swapaxes(1, 2).reshape(-1)


def find_gguf(folder: Path) -> Path | None:
    """The one GGUF file of a folder without safetensors; raises CheckpointError for several."""
    files = sorted(folder.glob("*.gguf")) if folder.is_dir() and not any(folder.glob("*.safetensors*")) else []
    if len(files) > 1:
        raise CheckpointError(
            f"`{folder}` has {len(files)} GGUF files",
            hint=f"name one of them: {files[0].name}; split files are not read",
        )
    return files[0] if files else None


def open_gguf(path: Path) -> GgufCheckpoint:
    """Open a GGUF file; raises CheckpointError for one that is damaged or of another family than llama."""
    try:
        from gguf import GGUFReader
    except ModuleNotFoundError as error:
        raise MissingExtraError("gguf", "gguf") from error
    if not (path.parent / "config.json").is_file():
        raise CheckpointError(
            f"`{path.parent}` has no config.json beside {path.name}",
            hint="put config.json, tokenizer.json and tokenizer_config.json of the original model there",
        )
    config = read_json(path.parent / "config.json")
    try:
        reader = GGUFReader(path)
        field = reader.fields["general.architecture"]
        architecture = str(field.contents())
        tensors = {str(tensor.name): tensor for tensor in reader.tensors}
    except (ValueError, KeyError, IndexError, OverflowError, MemoryError, UnicodeDecodeError, OSError) as error:
        raise CheckpointError(f"`{path}` is no valid GGUF file: {error!r:.200}", hint="download it again") from error
    if architecture != "llama":
        raise CheckpointError(f"`{path}` is of architecture `{architecture:.40}`; llama can be read")
    return GgufCheckpoint(path, {**config, "tie_word_embeddings": "output.weight" not in tensors}, tensors)


def _name(name: str) -> str:
    """llama.cpp's name of one of Hugging Face's."""
    module, _, part = name.rpartition(".")
    layer, at = "", module
    if module.startswith("model.layers."):
        number, _, at = module.removeprefix("model.layers.").partition(".")
        layer = f"blk.{number}."
    return f"{layer}{_NAMES.get(at, at)}.{part}"


def _floats(data: NDArray[Any], kind: str) -> NDArray[Any]:
    return np.ascontiguousarray(data).view(ARRAY_TYPES[kind])


def _exact(
    name: str, kind: str, codes: Bytes, scales: NDArray[np.float32], zero_points: NDArray[np.float32]
) -> QTensor:
    """The values on one of our schemes; raises TensorError with the number of groups that do not fit it."""
    scheme = _SCHEMES[kind]
    narrow = scales.astype(np.float16)
    off = (narrow.astype(np.float32) != scales) | ~np.isfinite(scales)
    off |= ~np.isfinite(zero_points) | (zero_points != np.round(zero_points)) | (zero_points < 0) | (zero_points > 255)
    if off.any():
        raise TensorError(
            f"`{name}` is {kind}: {int(off.sum())} of {off.size} groups have a scale that is no float16 number, or a "
            "minimum that is no whole number of steps",
            hint="Q4_0 and Q8_0 files keep every integer; or start from the original checkpoint",
        )
    if scheme.symmetric:
        return QTensor(codes, narrow, None, scheme.bits)
    whole = zero_points.astype(np.uint8)
    return QTensor(codes, narrow, whole, scheme.bits if whole.max(initial=0) < 1 << scheme.bits else 8)


def _halves(blocks: Bytes, start: int) -> NDArray[np.float32]:
    """The float16 number at byte `start` of each block."""
    return np.ascontiguousarray(blocks[..., start : start + 2]).view(np.float16)[..., 0].astype(np.float32)


def _nibbles(packed: Bytes) -> Bytes:
    """`[..., B]` bytes as `[..., 2 B]`: all low nibbles, then all high ones."""
    return np.concatenate([packed & 15, packed >> 4], axis=-1)


def _blocks(rows: Bytes, size: int) -> Bytes:
    return rows.reshape(len(rows), -1, size)


def _by_row(codes: Bytes) -> Bytes:
    return np.ascontiguousarray(codes.reshape(len(codes), -1))


def _q4_0(rows: Bytes) -> GroupedLevels:
    blocks = _blocks(rows, 18)
    scales = _halves(blocks, 0)
    return _by_row(_nibbles(blocks[..., 2:])), scales, np.full_like(scales, 8)


def _q8_0(rows: Bytes) -> GroupedLevels:
    blocks = _blocks(rows, 34)
    scales = _halves(blocks, 0)
    return _by_row(blocks[..., 2:] + np.uint8(128)), scales, np.full_like(scales, 128)


def _q4_1(rows: Bytes) -> GroupedLevels:
    blocks = _blocks(rows, 20)
    scales = _halves(blocks, 0)
    return _by_row(_nibbles(blocks[..., 4:])), scales, _steps(-_halves(blocks, 2), scales)


def _q6_k(rows: Bytes) -> GroupedLevels:
    """256 weights: 128 bytes of low nibbles, 64 of high bit pairs, 16 int8 scales, d; each half in four runs of 32."""
    blocks = _blocks(rows, 210)
    low = _nibbles(blocks[..., :128].reshape(*blocks.shape[:2], 2, 64)).reshape(*blocks.shape[:2], 2, 4, 32)
    high = blocks[..., 128:192].reshape(*blocks.shape[:2], 2, 1, 32)
    pairs = high >> np.array([0, 2, 4, 6], np.uint8)[:, None] & np.uint8(3)
    codes = (low | pairs << np.uint8(4)) + np.uint8(128 - 32)
    scales = blocks[..., 192:208].view(np.int8).astype(np.float32) * _halves(blocks, 208)[..., None]
    scales = scales.reshape(len(rows), -1)
    return _by_row(codes), scales, np.full_like(scales, 128)


def _q4_k_scales(blocks: Bytes) -> tuple[Bytes, Bytes]:
    """8 scales and 8 minima of 6 bits from 12 bytes: the last four borrow the high bits of the first ones."""
    first, second, third = blocks[..., 4:8], blocks[..., 8:12], blocks[..., 12:16]
    scales = np.concatenate([first & 63, (third & 15) | (first >> 6 << 4)], axis=-1)
    minima = np.concatenate([second & 63, (third >> 4) | (second >> 6 << 4)], axis=-1)
    return scales, minima


def _q4_k(rows: Bytes) -> GroupedLevels:
    """256 weights: d, e, packed scales and minima, four times 32 bytes of which low nibbles come first."""
    blocks = _blocks(rows, 144)
    factors, _ = _q4_k_scales(blocks)
    scales = (factors * _halves(blocks, 0)[..., None]).reshape(len(rows), -1)
    codes = _nibbles(blocks[..., 16:].reshape(*blocks.shape[:2], 4, 32))
    return _by_row(codes), scales, _steps(_minimum(rows, "Q4_K"), scales)


def _q2_k(rows: Bytes) -> GroupedLevels:
    """256 weights: 16 bytes of scale and minimum nibbles, twice 32 bytes of four bit pairs each, d, e."""
    blocks = _blocks(rows, 84)
    scales = ((blocks[..., :16] & 15) * _halves(blocks, 80)[..., None]).reshape(len(rows), -1)
    packed = blocks[..., 16:80].reshape(*blocks.shape[:2], 2, 1, 32)
    codes = packed >> np.array([0, 2, 4, 6], np.uint8)[:, None] & np.uint8(3)
    return _by_row(codes), scales, _steps(_minimum(rows, "Q2_K"), scales)


def _minimum(rows: Bytes, kind: str) -> NDArray[np.float32]:
    """The value that is subtracted from each group, `[N, G]`."""
    if kind == "Q4_K":
        blocks = _blocks(rows, 144)
        lowest = _q4_k_scales(blocks)[1] * _halves(blocks, 2)[..., None]
    else:
        blocks = _blocks(rows, 84)
        lowest = (blocks[..., :16] >> 4) * _halves(blocks, 82)[..., None]
    return np.asarray(lowest, np.float32).reshape(len(rows), -1)


def _steps(minimum: NDArray[np.float32], scales: NDArray[np.float32]) -> NDArray[np.float32]:
    """The zero point of each group as a fraction: `minimum / scale`, 0 where both are 0."""
    wide = scales.astype(np.float64)
    with np.errstate(divide="ignore", invalid="ignore"):
        whole = np.round(minimum / wide)
        exact = np.isfinite(whole) & (whole * wide == minimum)
    return np.where(minimum == 0, 0.0, np.where(exact, whole, np.nan)).astype(np.float32)


_DECODERS: dict[str, Callable[[Bytes], GroupedLevels]] = {
    "Q4_0": _q4_0, "Q8_0": _q8_0, "Q4_1": _q4_1, "Q6_K": _q6_k, "Q4_K": _q4_k, "Q2_K": _q2_k,
}  # fmt: skip
