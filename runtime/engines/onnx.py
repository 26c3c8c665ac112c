"""ONNX Runtime: model.onnx with genai_config.json, as onnxruntime-genai's builder and ovround write them; CPU.

Contract: inputs `input_ids`, `attention_mask` i64, `past_key_values.%d.key/value` `[B, H_kv, S, D]`; outputs `logits`
f32 `[B, T, V]`, `present.%d.key/value`; attention by GroupQueryAttention, which computes each row's length from its
mask and therefore cannot have padding on the left. A state of fixed size comes in as `past_state.%d.NAME` `[B, ...]` and
goes out as `present_state.%d.NAME`.

The key/value cache is one buffer for each input. It is bound as past and as present, so that a step writes its tokens in
place. A fixed state has two buffers: a graph may read it after it has written it. Rows are prefilled one by one into their
parts of the buffers, and decoded together, each at its own length; no prompt is padded.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from ovround.errors import ArtifactError, EngineError, GenerationError
from ovround.runtime.engine import Logits, TokenIds, check_ids, check_lengths, check_room
from ovround.runtime.engines.onnx_session import ORT_ERRORS, open_session
from ovround.runtime.engines.state_history import Moment, StateHistory
from ovround.runtime.json_object import read_object
from ovround.runtime.memory import check_memory
from ovround.runtime.model_info import read_model_info

MODEL_FILE = "model.onnx"
CONFIG_FILE = "genai_config.json"
_PREFILL_TOKENS = 256  # a run computes the logits of all its positions; this bounds their memory
_ROOM = 256  # least growth of the cache, in tokens
_PAST, _PAST_STATE = "past_key_values.", "past_state."
_TYPES: dict[str, type[np.floating[Any]]] = {"tensor(float)": np.float32, "tensor(float16)": np.float16}


@dataclass(frozen=True, slots=True)
class _State:
    """What a layer keeps, `[B, *shape]`, 0 in `shape` standing for the axis that grows: keys `[B, heads, 0, head_size]`."""

    shape: tuple[int, ...]
    dtype: type[np.floating[Any]]

    @property
    def grows(self) -> bool:
        return 0 in self.shape

    @property
    def size_bytes(self) -> int:
        """Bytes of a row, of a token where it grows."""
        return math.prod(size or 1 for size in self.shape) * np.dtype(self.dtype).itemsize

    def empty(self, rows: int, room: int) -> NDArray[Any]:
        """Zeros for `rows` rows of `room` tokens."""
        return np.zeros((rows, *(size or room for size in self.shape)), self.dtype)


@dataclass(frozen=True, slots=True, eq=False)
class _Bound:
    """What ONNX Runtime reads and writes; after a run each array of `moved` is copied from its first to its second."""

    binding: Any
    moved: tuple[tuple[NDArray[Any], NDArray[Any]], ...]


class OnnxEngine:
    """See `Engine`. `exact` uses float32 instead of int8 activations, and no lookup tables for codebooks.

    `kernel`: see `open_engine`.
    """

    def __init__(
        self,
        folder: Path,
        *,
        exact: bool = False,
        threads: int | None = None,
        properties: Mapping[str, str] | None = None,
        kernel: str = "auto",
    ) -> None:
        self.context_length = read_model_info(folder).context_length
        decoder = _read_decoder_config(folder)
        options = _session_options(decoder, threads, properties or {})
        # The session uses the expanded weights without keeping them alive.
        self._session, self._expanded, self.kernel = open_session(folder / MODEL_FILE, options, exact, kernel)
        self._states, self.vocab_size = _read_contract(folder / MODEL_FILE, self._session, decoder.get("head_size"))
        self.device = f"ONNX Runtime {ort.__version__} CPU"
        self._lengths: TokenIds = np.zeros(0, np.int64)  # [B]: tokens in each row of the cache
        self._buffers: dict[str, NDArray[Any]] = {}  # by the name of the input: [B, H_kv, room, D]
        self._room = 0
        self._fixed = [name for name, state in self._states.items() if not state.grows]
        self._history: StateHistory[dict[str, NDArray[Any]]] | None = StateHistory() if self._fixed else None
        # Kept between steps: binding all buffers takes as long as a step of a small model.
        self._binding: _Bound | None = None

    def prefill(self, prompts: Sequence[Sequence[int]]) -> Logits:
        check_ids(prompts, self.vocab_size)
        if not len(self._lengths):
            self._lengths = np.zeros(len(prompts), np.int64)
        self._check_rows(len(prompts))
        total = self._lengths + [len(prompt) for prompt in prompts]
        self._make_room(int(total.max()))
        logits = np.stack([self._extend_row(row, prompt)[-1] for row, prompt in enumerate(prompts)])
        self._remember(prompts)
        self._copy_state("prompt")
        return logits

    def extend(self, rows: Sequence[Sequence[int]]) -> Logits:
        check_ids(rows, self.vocab_size)
        if len({len(row) for row in rows}) > 1:
            raise GenerationError("rows of unequal lengths cannot be extended at once")
        if not len(self._lengths):
            self._lengths = np.zeros(len(rows), np.int64)
        self._check_rows(len(rows))
        if len(rows[0]) > 1:
            self._copy_state("guess")
        self._make_room(int(self._lengths.max()) + len(rows[0]))
        logits = np.stack([self._extend_row(row, ids, whole=True) for row, ids in enumerate(rows)])
        self._remember(rows)
        return logits

    def rewind(self, lengths: Sequence[int]) -> None:
        check_lengths(lengths, self._lengths)
        if self._history is None:
            self._lengths = np.asarray(lengths, np.int64)  # what lies beyond is written over before it is read
        elif list(lengths) != self._lengths.tolist():
            self._go_back(self._history, lengths)

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
        self._remember([[token] for token in ids])
        return logits[:, -1]

    def keep(self, rows: Sequence[int]) -> None:
        chosen = list(rows)
        self._lengths = self._lengths[chosen]
        self._replace_buffers({name: buffer[chosen] for name, buffer in self._buffers.items()})
        if self._history is not None:
            self._history.keep(chosen)

    def reset(self) -> None:
        self._lengths = np.zeros(0, np.int64)
        self._room = 0
        self._replace_buffers({})
        if self._history is not None:
            self._history.clear()

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

    def _remember(self, rows: Sequence[Sequence[int]]) -> None:
        if self._history is not None:
            self._history.append(rows)

    def _copy_state(self, moment: Moment) -> None:
        """Copy the states of fixed size, where there are any, to go back to."""
        if self._history is not None and self._buffers:
            self._history.copied(moment, {name: self._buffers[name].copy() for name in self._fixed})

    def _go_back(self, history: StateHistory[dict[str, NDArray[Any]]], lengths: Sequence[int]) -> None:
        """Hold the first `lengths[row]` tokens of each row: from the last copy of the state within them, or from nothing."""
        copy, rest = history.back(lengths)
        for name in self._fixed:
            self._buffers[name][:] = 0 if copy is None else copy.state[name][copy.rows]
        self._lengths = np.array([0] * len(rest) if copy is None else copy.lengths, np.int64)
        for row, ids in enumerate(rest):
            if ids:
                self._extend_row(row, ids)

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

    def _binding_of(self, row: int) -> _Bound:
        """A binding of one row of the buffers; of a batch of one it is the batch's own."""
        if len(self._lengths) > 1:
            return self._bind({name: buffer[row : row + 1] for name, buffer in self._buffers.items()})
        if self._binding is None:
            self._binding = self._bind(self._buffers)
        return self._binding

    def _bind(self, buffers: dict[str, NDArray[Any]]) -> _Bound:
        """A binding that reads `buffers` and writes them in place, fixed states after the run."""
        if self._session is None:
            raise EngineError("the model is closed")
        binding = self._session.io_binding()
        binding.bind_output("logits")  # first: outputs come back in the order in which their names were first bound
        moved = []
        for name, buffer in buffers.items():
            present = buffer
            if not self._states[name].grows:
                present = np.empty_like(buffer)
                moved.append((present, buffer))
            binding.bind_ortvalue_input(name, ort.OrtValue.ortvalue_from_numpy(buffer))  # on CPU no copy
            binding.bind_ortvalue_output(_present(name), ort.OrtValue.ortvalue_from_numpy(present))
        return _Bound(binding, tuple(moved))

    def _run(self, bound: _Bound, ids: TokenIds, mask: TokenIds) -> Logits:
        """Logits `[B, T, V]` of `ids` `[B, T]`, the newest tokens of the mask's `[B, S]`."""
        binding = bound.binding
        binding.bind_cpu_input("input_ids", ids)
        binding.bind_cpu_input("attention_mask", mask)
        binding.bind_output("logits")  # again: otherwise ORT writes into the last run's tensor, of the last shape
        try:
            self._session.run_with_iobinding(binding)
        except ORT_ERRORS as error:
            raise EngineError(f"{self.device} failed: {error}") from error
        for present, past in bound.moved:
            np.copyto(past, present)
        logits: Logits = binding.get_outputs()[0].numpy()
        return logits

    def _empty(self, rows: int, tokens: int) -> dict[str, NDArray[Any]]:
        """Cache buffers for `rows` rows of `tokens` tokens each; raises GenerationError where there is no memory for them."""
        check_memory(rows, tokens, sum(state.size_bytes for state in self._states.values() if state.grows))
        return {name: state.empty(rows, tokens) for name, state in self._states.items()}

    def _make_room(self, tokens: int) -> None:
        """Make buffers for rows of `tokens` tokens; doubling keeps the mean cost of growth low."""
        check_room(tokens, self.context_length)
        if tokens <= self._room:
            return
        room = min(max(2 * self._room, tokens + _ROOM), self.context_length)
        grown = self._empty(len(self._lengths), room)
        for name, buffer in self._buffers.items():
            grown[name][tuple(slice(size) for size in buffer.shape)] = buffer
        self._room = room
        self._replace_buffers(grown)

    def _replace_buffers(self, buffers: dict[str, NDArray[Any]]) -> None:
        self._buffers = buffers
        self._binding = None

    def _check_rows(self, rows: int) -> None:
        if rows != len(self._lengths):
            raise GenerationError(f"{rows} rows for a batch of {len(self._lengths)}")


def _present(past: str) -> str:
    return past.replace(_PAST, "present.").replace(_PAST_STATE, "present_state.")


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


def _read_contract(path: Path, session: Any, head_size: Any) -> tuple[dict[str, _State], int]:
    """The states by input name, and the vocabulary's size; raises ArtifactError for any other graph."""
    inputs = {port.name: port for port in session.get_inputs()}
    outputs = {port.name: port for port in session.get_outputs()}
    pasts = [name for name in inputs if name.startswith((_PAST, _PAST_STATE))]
    needed = {"logits"} | {_present(name) for name in pasts}
    unknown = set(inputs) - set(pasts) - {"input_ids", "attention_mask"}
    missing = ({"input_ids", "attention_mask"} - set(inputs)) | (needed - set(outputs))
    if unknown or missing or not pasts:
        what = f"needs `{min(unknown)}`" if unknown else f"has no `{min(missing or {_PAST})}`"
        raise ArtifactError(f"`{path}` {what}: it is no decoder as onnxruntime-genai's builder writes them for CPU")
    states = {}
    for name in pasts:
        shape, kind = inputs[name].shape, inputs[name].type
        if name.startswith(_PAST_STATE):
            if kind not in _TYPES or not all(isinstance(size, int) and size > 0 for size in shape[1:]):
                raise ArtifactError(f"`{path}`: `{name}` is {kind} {shape}; float `[B, ...]` of stated sizes is needed")
            states[name] = _State(tuple(shape[1:]), _TYPES[kind])
            continue
        size = shape[3] if isinstance(shape[3], int) else head_size
        if kind not in _TYPES or not isinstance(shape[1], int) or not isinstance(size, int):
            raise ArtifactError(f"`{path}`: `{name}` is {kind} {shape}; float `[B, heads, S, size]` is needed")
        states[name] = _State((shape[1], 0, size), _TYPES[kind])
    vocab_size = outputs["logits"].shape[-1]
    if not isinstance(vocab_size, int):
        raise ArtifactError(f"`{path}` does not state how many logits it gives")
    return states, vocab_size


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
