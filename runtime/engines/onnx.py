"""ONNX Runtime: model.onnx with genai_config.json, as onnxruntime-genai's builder and ovround write them; CPU.

Contract: inputs `input_ids`, `attention_mask` i64, `past_key_values.%d.key/value` `[B, H_kv, S, D]`; outputs `logits`
f32 `[B, T, V]`, `present.%d.key/value`; attention by GroupQueryAttention, which computes each row's length from its
mask and therefore cannot have padding on the left.

The cache is one buffer for the keys and one for the values of each layer. It is bound as past and as present, so that a step
writes its tokens in place. Rows are prefilled one by one into their parts of the buffers, and decoded together, each at its
own length; no prompt is padded.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray
from onnxruntime.capi import onnxruntime_pybind11_state as ort_errors

from ovround.errors import ArtifactError, EngineError, GenerationError
from ovround.runtime.engine import Logits, TokenIds, check_ids, check_lengths, check_room
from ovround.runtime.engines import onnx_operator
from ovround.runtime.engines.native.library import check_expandable, warn_expanded
from ovround.runtime.json_object import read_object
from ovround.runtime.memory import check_memory
from ovround.runtime.model_info import read_model_info

MODEL_FILE = "model.onnx"
CONFIG_FILE = "genai_config.json"
_PREFILL_TOKENS = 256  # a run computes the logits of all its positions; this bounds their memory
_ROOM = 256  # least growth of the cache, in tokens
_PAST = "past_key_values."
_TYPES: dict[str, type[np.floating[Any]]] = {"tensor(float)": np.float32, "tensor(float16)": np.float16}
_ORT_ERRORS = (
    ort_errors.Fail, ort_errors.EPFail, ort_errors.InvalidArgument, ort_errors.InvalidGraph, ort_errors.InvalidProtobuf,
    ort_errors.NoSuchFile, ort_errors.NotImplemented, ort_errors.RuntimeException,
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class _Cache:
    """One layer's keys or values, `[B, heads, S, head_size]`."""

    heads: int
    head_size: int
    dtype: type[np.floating[Any]]


class OnnxEngine:
    """See `Engine`. `exact` uses float32 instead of int8 activations, and no lookup tables for codebooks.

    `on_missing_kernel`: see `open_engine`.
    """

    def __init__(
        self,
        folder: Path,
        *,
        exact: bool = False,
        threads: int | None = None,
        properties: Mapping[str, str] | None = None,
        on_missing_kernel: str = "expand",
    ) -> None:
        self.context_length = read_model_info(folder).context_length
        decoder = _read_decoder_config(folder)
        options = _session_options(decoder, threads, properties or {})
        # The session uses the expanded weights without keeping them alive.
        self._session, self._expanded = _open_session(folder / MODEL_FILE, options, exact, on_missing_kernel)
        self._caches, self.vocab_size = _read_contract(folder / MODEL_FILE, self._session, decoder.get("head_size"))
        self.device = f"ONNX Runtime {ort.__version__} CPU"
        self._lengths: TokenIds = np.zeros(0, np.int64)  # [B]: tokens in each row of the cache
        self._buffers: dict[str, NDArray[Any]] = {}  # past's name: [B, H_kv, room, D]
        self._binding: Any = None  # kept between steps: binding all buffers takes as long as a step of a small model

    def prefill(self, prompts: Sequence[Sequence[int]]) -> Logits:
        check_ids(prompts, self.vocab_size)
        if not len(self._lengths):
            self._lengths = np.zeros(len(prompts), np.int64)
        self._check_rows(len(prompts))
        total = self._lengths + [len(prompt) for prompt in prompts]
        self._make_room(int(total.max()))
        return np.stack([self._extend_row(row, prompt)[-1] for row, prompt in enumerate(prompts)])

    def extend(self, rows: Sequence[Sequence[int]]) -> Logits:
        check_ids(rows, self.vocab_size)
        if len({len(row) for row in rows}) > 1:
            raise GenerationError("rows of unequal lengths cannot be extended at once")
        if not len(self._lengths):
            self._lengths = np.zeros(len(rows), np.int64)
        self._check_rows(len(rows))
        self._make_room(int(self._lengths.max()) + len(rows[0]))
        return np.stack([self._extend_row(row, ids, whole=True) for row, ids in enumerate(rows)])

    def rewind(self, lengths: Sequence[int]) -> None:
        check_lengths(lengths, self._lengths)
        self._lengths = np.asarray(lengths, np.int64)  # later tokens are overwritten before they are read

    def decode(self, ids: Sequence[int]) -> Logits:
        check_ids([ids], self.vocab_size)
        self._check_rows(len(ids))
        lengths = self._lengths + 1
        self._make_room(int(lengths.max()))
        mask = (np.arange(lengths.max()) < lengths[:, None]).astype(np.int64)
        if self._binding is None:
            self._binding = self._bind(self._buffers)
        logits = self._run(self._binding, np.asarray(ids, np.int64).reshape(-1, 1), mask)
        self._lengths = lengths
        return logits[:, -1]

    def keep(self, rows: Sequence[int]) -> None:
        chosen = list(rows)
        self._lengths = self._lengths[chosen]
        self._replace_buffers({name: buffer[chosen] for name, buffer in self._buffers.items()})

    def reset(self) -> None:
        self._lengths = np.zeros(0, np.int64)
        self._replace_buffers({})

    def logits(self, ids: TokenIds) -> Logits:
        check_ids(ids, self.vocab_size)
        check_room(ids.shape[1], self.context_length)
        buffers = self._empty(
            len(ids), ids.shape[1]
        )  # kept alive until the run has ended: an OrtValue does not keep its array
        return self._run(self._bind(buffers), np.ascontiguousarray(ids, np.int64), np.ones(ids.shape, np.int64))

    def close(self) -> None:
        self._session = None
        self._expanded = {}
        self.reset()

    def _extend_row(self, row: int, ids: Sequence[int], *, whole: bool = False) -> Logits:
        """Append `ids` to one row, in pieces; returns logits `[T, V]` of the last piece, or of all with `whole`."""
        binding = self._binding_of(row)
        tokens = np.asarray(ids, np.int64)[None]
        pieces: list[Logits] = []
        for start in range(0, tokens.shape[1], _PREFILL_TOKENS):
            piece = tokens[:, start : start + _PREFILL_TOKENS]
            self._lengths[row] += piece.shape[1]
            logits = self._run(binding, piece, np.ones((1, self._lengths[row]), np.int64))
            pieces = [*(pieces if whole else []), logits[0]]
        return np.concatenate(pieces)

    def _binding_of(self, row: int) -> Any:
        """A binding of one row of the buffers; a batch of one row has one binding for both."""
        if len(self._lengths) > 1:
            return self._bind({name: buffer[row : row + 1] for name, buffer in self._buffers.items()})
        if self._binding is None:
            self._binding = self._bind(self._buffers)
        return self._binding

    def _bind(self, buffers: dict[str, NDArray[Any]]) -> Any:
        """A binding that reads and writes `buffers` in place."""
        if self._session is None:
            raise EngineError("the model is closed")
        binding = self._session.io_binding()
        binding.bind_output("logits")  # first: outputs have the order in which their names were first bound
        for name, buffer in buffers.items():
            value = ort.OrtValue.ortvalue_from_numpy(buffer)  # no copy on CPU
            binding.bind_ortvalue_input(name, value)
            binding.bind_ortvalue_output(_present(name), value)
        return binding

    def _run(self, binding: Any, ids: TokenIds, mask: TokenIds) -> Logits:
        """Logits `[B, T, V]` of `ids` `[B, T]`, the newest tokens of the mask's `[B, S]`."""
        binding.bind_cpu_input("input_ids", ids)
        binding.bind_cpu_input("attention_mask", mask)
        binding.bind_output("logits")  # again: otherwise ORT writes into the last run's tensor, of the last shape
        try:
            self._session.run_with_iobinding(binding)
        except _ORT_ERRORS as error:
            raise EngineError(f"{self.device} failed: {error}") from error
        logits: Logits = binding.get_outputs()[0].numpy()
        return logits

    def _empty(self, rows: int, tokens: int) -> dict[str, NDArray[Any]]:
        """Cache buffers for `rows` rows of `tokens` tokens; raises GenerationError if memory does not suffice."""
        caches = self._caches.values()
        check_memory(
            rows, tokens, sum(cache.heads * cache.head_size * np.dtype(cache.dtype).itemsize for cache in caches)
        )
        return {
            name: np.zeros((rows, cache.heads, tokens, cache.head_size), cache.dtype)
            for name, cache in self._caches.items()
        }

    def _make_room(self, tokens: int) -> None:
        """Make buffers for rows of `tokens` tokens; doubling keeps the mean cost of growth low."""
        check_room(tokens, self.context_length)
        rows = len(self._lengths)
        old = next(iter(self._buffers.values())).shape[2] if self._buffers else 0
        if tokens <= old:
            return
        grown = self._empty(rows, min(max(2 * old, tokens + _ROOM), self.context_length))
        for name, buffer in self._buffers.items():
            grown[name][:, :, :old] = buffer
        self._replace_buffers(grown)

    def _replace_buffers(self, buffers: dict[str, NDArray[Any]]) -> None:
        self._buffers = buffers
        self._binding = None

    def _check_rows(self, rows: int) -> None:
        if rows != len(self._lengths):
            raise GenerationError(f"{rows} rows for a batch of {len(self._lengths)}")


def _present(past: str) -> str:
    return past.replace(_PAST, "present.")


def _read_decoder_config(folder: Path) -> dict[str, Any]:
    """`model.decoder` of genai_config.json; raises ArtifactError for a graph without a shared cache buffer."""
    config = read_object(folder / CONFIG_FILE)
    search, model = config.get("search"), config.get("model")
    decoder = model.get("decoder") if isinstance(model, dict) else None
    if not isinstance(decoder, dict):
        raise ArtifactError(f"`{folder / CONFIG_FILE}` has no model.decoder")
    if not isinstance(search, dict) or search.get("past_present_share_buffer") is not True:
        raise ArtifactError(
            f"`{folder / CONFIG_FILE}`: search.past_present_share_buffer is not true; other caches are not supported",
            hint="build the model for CPU with GroupQueryAttention",
        )
    return decoder


def _read_contract(path: Path, session: Any, head_size: Any) -> tuple[dict[str, _Cache], int]:
    """The caches by input name, and the vocabulary's size; raises ArtifactError for any other graph."""
    inputs = {port.name: port for port in session.get_inputs()}
    outputs = {port.name: port for port in session.get_outputs()}
    pasts = [name for name in inputs if name.startswith(_PAST)]
    needed = {"logits"} | {_present(name) for name in pasts}
    unknown = set(inputs) - set(pasts) - {"input_ids", "attention_mask"}
    missing = ({"input_ids", "attention_mask"} - set(inputs)) | (needed - set(outputs))
    if unknown or missing or not pasts:
        what = f"needs `{min(unknown)}`" if unknown else f"has no `{min(missing or {_PAST})}`"
        raise ArtifactError(f"`{path}` {what}: it is no decoder as onnxruntime-genai's builder writes them for CPU")
    caches = {}
    for name in pasts:
        shape, kind = inputs[name].shape, inputs[name].type
        size = shape[3] if isinstance(shape[3], int) else head_size
        if kind not in _TYPES or not isinstance(shape[1], int) or not isinstance(size, int):
            raise ArtifactError(f"`{path}`: `{name}` is {kind} {shape}; float `[B, heads, S, size]` is needed")
        caches[name] = _Cache(shape[1], size, _TYPES[kind])
    vocab_size = outputs["logits"].shape[-1]
    if not isinstance(vocab_size, int):
        raise ArtifactError(f"`{path}` does not state how many logits it gives")
    return caches, vocab_size


def _session_options(decoder: dict[str, Any], threads: int | None, properties: Mapping[str, str]) -> Any:
    options = ort.SessionOptions()
    options.log_severity_level = 3  # errors are raised; warnings are about the graph, which users cannot change
    stated = decoder.get("session_options")
    for key, value in (stated if isinstance(stated, dict) else {}).items():
        if "." in key and isinstance(value, str):  # ONNX Runtime's own keys, such as mlas.use_lut_gemm
            options.add_session_config_entry(key, value)
    for key, value in properties.items():
        options.add_session_config_entry(key, value)
    if threads is not None:
        options.intra_op_num_threads = threads
    return options


def _open_session(path: Path, options: Any, exact: bool, on_missing_kernel: str) -> tuple[Any, dict[str, NDArray[Any]]]:
    """The session, and the weights that were expanded for it, by name."""
    model: str | bytes = str(path)
    if exact:
        from ovround.runtime.engines.onnx_exact import exact_model

        model = exact_model(path)
    expanded: dict[str, NDArray[Any]] = {}
    if path.is_file() and onnx_operator.needs_operator(path) and not _has_operator(options):
        check_expandable(path.parent, "CPU", on_missing_kernel, onnx_operator.INSTALL)
        from ovround.runtime.engines.onnx_expansion import expand

        expansion = expand(path.read_bytes() if isinstance(model, str) else model, path, exact=exact)
        model, expanded = expansion.model, expansion.initializers
        values = [ort.OrtValue.ortvalue_from_numpy(array) for array in expanded.values()]
        options.add_external_initializers(list(expanded), values)
        warn_expanded(path.parent, "CPU", onnx_operator.INSTALL, expansion.count, expansion.before, expansion.after)
    if isinstance(model, bytes):
        folder = str(path.parent.absolute())
        options.add_session_config_entry("session.model_external_initializers_file_folder_path", folder)
    try:
        return ort.InferenceSession(model, options, providers=["CPUExecutionProvider"]), expanded
    except _ORT_ERRORS as error:
        raise ArtifactError(f"`{path}` cannot be read by ONNX Runtime {ort.__version__}: {error}") from error


def _has_operator(options: Any) -> bool:
    """Register the native library in the session; False if it is not installed."""
    library = onnx_operator.library_path()
    if library is None:
        return False
    try:
        options.register_custom_ops_library(str(library))
    except _ORT_ERRORS as error:
        raise EngineError(
            f"`{library}` cannot be loaded by ONNX Runtime {ort.__version__}: {error}",
            hint="OVROUND_NATIVE=1 pip install --force-reinstall ovround",
        ) from error
    return True
