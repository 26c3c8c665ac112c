"""OpenVINO: the stateful IR that ovround and optimum-intel write, on any device that OpenVINO has.

Contract: inputs `input_ids`, `attention_mask` and, where the graph has it, `position_ids` i64 `[B, T]`, `beam_idx` i32
`[B]`; output `logits` f32 `[B, T, V]`; the KV cache lives in the graph's variables. A batch is padded on the left with
mask 0; `beam_idx` gives for each row the row of the last step that it continues; finished rows leave the batch by it.
Rewound tokens become padding too. When most of the cache is padding, the padding is cut out; a model with sliding windows, which
count places, gets it on the left at once. A variable of fixed size, such as a recurrent state, goes back to a copy, and the
tokens after it are computed again. Prompts of such a model go in pieces, since its graph takes memory by the square of a step's
tokens, and padding only stands before a row's first token.

Generation needs the last position's logits, evaluation all of them. One compiled model gives both: a slice precedes the head,
and its start is an input (-1 or 0). openvino_genai slices at the same node, with a fixed start.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import openvino as ov
from numpy.typing import NDArray
from openvino import opset13 as opset

from ovround.errors import ArtifactError, EngineError, GenerationError
from ovround.runtime.engine import Logits, TokenIds, check_ids, check_lengths, check_room
from ovround.runtime.engines.native import operator as native_operator
from ovround.runtime.engines.openvino_devices import profile_of
from ovround.runtime.engines.state_history import Moment, StateHistory
from ovround.runtime.json_object import read_object
from ovround.runtime.memory import check_memory
from ovround.runtime.model_info import read_model_info
from ovround.tensors.native_layout import OPERATOR

MODEL_FILE = "openvino_model.xml"
_MAX_PADDING = 256  # columns without a token of any row; more of them are cut out
_PIECE = 256  # tokens of a step, where the model has a state of fixed size
_FIRST_LOGITS = "ovround.first_logits"
_WINDOW = "const/window/"  # starts the name of a window's constant
_META_DEVICES = ("AUTO", "HETERO", "MULTI")
_AFTER_HEAD = ("Add", "Transpose", "Multiply", "Divide", "Tanh", "Convert")  # bias, layout, soft cap


class OpenVINOEngine:
    """See `Engine`. `exact` computes in float32; otherwise the device's defaults and the IR's runtime options hold."""

    def __init__(
        self,
        folder: Path,
        device: str = "CPU",
        *,
        exact: bool = False,
        threads: int | None = None,
        properties: Mapping[str, str] | None = None,
        kernel: str = "auto",
    ) -> None:
        core = ov.Core()
        device = _known_device(core, device)
        context_length = read_model_info(folder).context_length
        self._profile = profile_of(device, context_length)
        options: dict[str, Any] = dict(self._profile.options(exact=exact, threads=threads))
        self.context_length = min(context_length, self._profile.context_length or context_length)
        model, native = _read_model(core, folder / MODEL_FILE, device, exact=exact, kernel=kernel)
        if native is not False:
            joined = native_operator.apply(model, kernel, device, exact=exact, properties=properties or {})
            native = native or joined
        self.kernel = "native" if native else "engine"
        self._inputs = {name for port in model.inputs for name in port.names}
        self.vocab_size = _vocab_size(model, folder)
        variables = [variable.info for variable in model.get_variables()]
        self._fixed = {info.variable_id for info in variables if not _is_cache(info.data_shape)}
        self._history: StateHistory[dict[str, Any]] | None = StateHistory() if self._fixed else None
        self._windowed = _has_window(model, folder)
        if self._profile.whole:
            _add_slice(model)
        options |= dict(properties or {})
        self._token_bytes = _token_bytes(model, str(options.get("KV_CACHE_PRECISION", "u8")))
        try:
            self._compiled: Any = core.compile_model(model, device, options)
        except RuntimeError as error:
            raise EngineError(f"OpenVINO cannot run `{folder}` on {device}: {_reason(error)}") from error
        self.device = f"OpenVINO {device}{_full_name(core, device)}"
        self._mask: TokenIds = np.zeros((0, 0), np.int64)  # [B, S]: 0 where the cache holds padding
        self._rows: NDArray[np.int32] = np.zeros(0, np.int32)  # [B]: row of the last step that each row continues
        self._held_rows = 0  # rows of the last step, which the variables hold
        self._request: Any = self._compiled.create_infer_request()

    def prefill(self, prompts: Sequence[Sequence[int]]) -> Logits:
        check_ids(prompts, self.vocab_size)
        longest = max(map(len, prompts))
        if self._history is not None and self._mask.shape[1] and len({len(prompt) for prompt in prompts}) > 1:
            self._check_rows(len(prompts))  # padding would stand between a row's tokens
            prompts = [[*held, *prompt] for held, prompt in zip(self._history.ids(), prompts, strict=True)]
            self.reset()
            return self.prefill(prompts)
        ids = np.zeros((len(prompts), longest), np.int64)
        mask = np.zeros_like(ids)
        for row, prompt in enumerate(prompts):
            ids[row, longest - len(prompt) :] = prompt
            mask[row, longest - len(prompt) :] = 1
        logits = self._extend(ids, mask)[:, -1]
        self._copy_state("prompt")
        return logits

    def decode(self, ids: Sequence[int]) -> Logits:
        check_ids([ids], self.vocab_size)
        column = np.asarray(ids, np.int64).reshape(-1, 1)
        return self._extend(column, np.ones_like(column))[:, -1]

    def extend(self, rows: Sequence[Sequence[int]]) -> Logits:
        check_ids(rows, self.vocab_size)
        self._check_whole("several tokens cannot be verified at once")
        if len({len(row) for row in rows}) > 1:
            raise GenerationError("rows of unequal lengths cannot be extended at once")
        ids = np.asarray(rows, np.int64)
        if ids.shape[1] > 1:
            self._copy_state("guess")
        return self._extend(ids, np.ones_like(ids), first=0)

    def rewind(self, lengths: Sequence[int]) -> None:
        check_lengths(lengths, self._mask.sum(axis=1))
        self._check_whole("tokens cannot be taken back")
        if self._history is not None:
            if list(lengths) != self._mask.sum(axis=1).tolist():
                self._go_back(self._history, lengths)
            return
        self._drop(lengths)

    def keep(self, rows: Sequence[int]) -> None:
        self._rows = self._rows[list(rows)]
        self._mask = self._mask[list(rows)]
        if self._history is not None:
            self._history.keep(rows)

    def reset(self) -> None:
        if self._history is not None:
            self._history.clear()
        self._mask = np.zeros((0, 0), np.int64)
        self._rows = np.zeros(0, np.int32)
        # A new request (0.03 ms) instead of reset_state: with an 8-bit cache, OpenVINO 2026.4 keeps some state across
        # reset_state, and a batch of another size then gets NaN after some steps.
        self._request = None if self._compiled is None else self._compiled.create_infer_request()

    def logits(self, ids: TokenIds) -> Logits:
        check_ids(ids, self.vocab_size)
        check_room(ids.shape[1], self.context_length)
        self._check_whole("it gives the logits of the last position alone")
        if self._compiled is None:
            raise EngineError("the model is closed")
        request = self._compiled.create_infer_request()  # variables of its own; the weights are shared
        rows = np.arange(len(ids), dtype=np.int32)
        return self._infer(request, np.asarray(ids, np.int64), np.ones(ids.shape, np.int64), rows, first=0)

    def close(self) -> None:
        self._compiled = None
        self.reset()

    def _extend(self, ids: TokenIds, mask: TokenIds, first: int = -1, *, known: bool = False) -> Logits:
        """Append `[B, T]` to the cache; returns logits `[B, T, V]` from position `first` on. `known`: it is in the history."""
        if not len(self._mask):
            self._mask = np.zeros((len(ids), 0), np.int64)
            self._rows = np.arange(len(ids), dtype=np.int32)
        self._check_rows(len(ids))
        if not self._profile.whole:
            self._check_alone(ids)
        grown = np.concatenate([self._mask, mask], axis=1)
        check_room(int(grown.sum(axis=1).max()), self.context_length)
        if ids.shape[1] > 1:
            check_memory(grown.shape[0], grown.shape[1], self._token_bytes)
        logits = self._infer(self._request, ids, grown, self._rows, first)
        self._mask, self._rows = grown, np.arange(len(ids), dtype=np.int32)
        self._held_rows = len(ids)
        if self._history is not None and not known:
            self._history.append([row[real != 0].tolist() for row, real in zip(ids, mask, strict=True)])
        return logits

    def _drop(self, lengths: Sequence[int]) -> None:
        """Mask the tokens after each row's first `lengths[row]`."""
        self._mask = self._mask * (self._mask.cumsum(axis=1) <= np.asarray(lengths)[:, None])
        if self._windowed:
            self._close_gaps()
        used: NDArray[np.bool_] = np.any(self._mask != 0, axis=0)
        if (~used).sum() > max(_MAX_PADDING, used.sum()):
            self._cut(used)

    def _copy_state(self, moment: Moment) -> None:
        """Copy the variables of fixed size, where there are any, to go back to."""
        if self._history is None or not self._mask.shape[1] or not self._in_order():
            return
        copies = {}
        for state in self._request.query_state():
            if state.name in self._fixed:
                held = state.state
                copies[state.name] = ov.Tensor(held.element_type, held.shape)
                held.copy_to(copies[state.name])
        self._history.copied(moment, copies)

    def _go_back(self, history: StateHistory[dict[str, Any]], lengths: Sequence[int]) -> None:
        """Hold the first `lengths[row]` tokens of each row: from the last copy of the state within them, or from nothing."""
        copy, rest = history.back(lengths)
        alike = len({len(ids) for ids in rest}) == 1
        if copy is None or not alike or not self._in_order() or copy.rows != list(range(len(rest))):
            rows = history.ids()
            self.reset()
            self.prefill(rows)
            return
        for state in self._request.query_state():
            if state.name in self._fixed:
                state.state = copy.state[state.name]
        self._drop(copy.lengths)
        if rest[0]:
            ids = np.array(rest, np.int64)
            self._extend(ids, np.ones_like(ids), known=True)

    def _in_order(self) -> bool:
        """Whether the variables hold the rows of the batch, in its order: they do after a step."""
        return self._rows.tolist() == list(range(len(self._mask))) and self._held_rows == len(self._mask)

    def _check_rows(self, rows: int) -> None:
        if rows != len(self._mask):
            raise GenerationError(f"{rows} rows for a batch of {len(self._mask)}")

    def _check_whole(self, why: str) -> None:
        if not self._profile.whole:
            raise EngineError(f"device {self._profile.kind}: {why}", hint="choose another device for this")

    def _check_alone(self, ids: TokenIds) -> None:
        """Raise GenerationError for a step that a device with static shapes cannot run."""
        limit = self._profile.prompt_length or ids.shape[1]
        if len(ids) > 1:
            raise GenerationError(
                f"{len(ids)} rows; device {self._profile.kind} computes one at a time", hint="batch_size 1"
            )
        if ids.shape[1] > 1 and self._mask.shape[1]:
            raise GenerationError(f"device {self._profile.kind} takes a prompt into an empty cache only")
        if ids.shape[1] > limit:
            raise GenerationError(f"a prompt of {ids.shape[1]} tokens; device {self._profile.kind} takes up to {limit}")

    def _close_gaps(self) -> None:
        """Move each row's tokens to the end of the cache, behind all that is free."""
        order = np.argsort(self._mask != 0, axis=1, kind="stable")  # [B, S]
        if np.array_equal(order, np.broadcast_to(np.arange(order.shape[1]), order.shape)):
            return
        for state in self._request.query_state():
            held = np.asarray(state.state.data)[self._rows]  # [B, ...]
            if state.name not in self._fixed:  # [B, H_kv, S, D]
                held = np.take_along_axis(held, order[:, None, :, None], axis=2)
            state.state = ov.Tensor(np.ascontiguousarray(held))
        self._mask = np.take_along_axis(self._mask, order, axis=1)
        self._rows = np.arange(len(self._rows), dtype=np.int32)

    def _cut(self, used: NDArray[np.bool_]) -> None:
        """Keep only the columns `[S]` of the cache that are `used`."""
        for state in self._request.query_state():
            if state.name not in self._fixed:
                held = state.state.data  # [B, H_kv, S, D]
                state.state = ov.Tensor(np.ascontiguousarray(held[:, :, used]))
        self._mask = self._mask[:, used]

    def _infer(self, request: Any, ids: TokenIds, mask: TokenIds, rows: NDArray[np.int32], first: int) -> Logits:
        """Logits `[B, T, V]` from position `first` on of `ids` `[B, T]`, the newest tokens of the mask's `[B, S]`."""
        if request is None:
            raise EngineError("the model is closed")
        positions = np.maximum(mask.cumsum(axis=1) - 1, 0)[:, -ids.shape[1] :]
        past, tokens = mask.shape[1] - ids.shape[1], ids.shape[1]
        piece = tokens if self._history is None else _PIECE
        pieces: list[Logits] = []
        for start in range(0, tokens, piece):
            end = min(start + piece, tokens)
            feed = {
                "input_ids": ids[:, start:end], "attention_mask": mask[:, : past + end],
                "position_ids": positions[:, start:end], "beam_idx": rows,
            }  # fmt: skip
            logits = self._run(request, feed, first)
            pieces = [*(pieces if first == 0 else []), logits]
            rows = np.arange(len(ids), dtype=np.int32)
        return pieces[0] if len(pieces) == 1 else np.concatenate(pieces, axis=1)

    def _run(self, request: Any, feed: Mapping[str, NDArray[Any]], first: int) -> Logits:
        feed = {name: np.ascontiguousarray(value) for name, value in feed.items() if name in self._inputs}
        try:
            request.infer({**feed, _FIRST_LOGITS: np.array([first])} if self._profile.whole else feed)
        except RuntimeError as error:
            raise EngineError(f"{self.device} failed: {_reason(error)}") from error
        # A copy, since the next step overwrites the request's tensor.
        return np.array(request.get_tensor("logits").data, np.float32)


def _read_model(core: Any, path: Path, device: str, *, exact: bool, kernel: str) -> tuple[Any, bool | None]:
    """The model, and whether the native operator computes the weights stored for it; None for a model without any."""
    if not path.with_suffix(".bin").is_file():
        raise ArtifactError(
            f"`{path.with_suffix('.bin')}` is missing", hint="convert again, or copy the whole folder again"
        )
    native = None
    try:
        if native_operator.needs_operator(path):
            model, native = native_operator.read_model(core, path, device, exact=exact, kernel=kernel)
        else:
            model = core.read_model(path)
    except RuntimeError as error:
        raise ArtifactError(f"`{path}` cannot be read by OpenVINO {ov.__version__}: {_reason(error)}") from error
    names = {name for port in [*model.inputs, *model.outputs] for name in port.names}
    missing = [name for name in ("input_ids", "attention_mask", "beam_idx", "logits") if name not in names]
    if missing or not model.get_sinks():
        what = f"no {missing[0]}" if missing else "no variables for the KV cache"
        raise ArtifactError(
            f"`{path}` has {what}: it is no stateful text generation model",
            hint="with optimum-intel, export for the task text-generation-with-past",
        )
    return model, native


def _is_cache(shape: Any) -> bool:
    """Whether a variable holds keys or values, `[B, H_kv, S, D]` with growing S, and no recurrent state."""
    return bool(shape.rank.is_static and len(shape) == 4 and shape[2].is_dynamic)


def _has_window(model: Any, folder: Path) -> bool:
    """Whether a layer has a sliding window: our graphs name it, other folders state it in config.json."""
    if any(node.get_friendly_name().startswith(_WINDOW) for node in model.get_ops()):
        return True
    config = read_object(folder / "config.json", optional=True)
    parts = [part for part in (config, config.get("text_config")) if isinstance(part, dict)]
    return any(part.get("sliding_window") and part.get("use_sliding_window", True) for part in parts)


def _token_bytes(model: Any, precision: str) -> int:
    """Bytes per token and row in the cache, without the scales of an 8-bit cache."""
    shapes = [variable.info.data_shape for variable in model.get_variables()]
    sizes = [(shape[1], shape[3]) for shape in shapes if _is_cache(shape)]
    values: int = sum(
        heads.get_length() * size.get_length() for heads, size in sizes if heads.is_static and size.is_static
    )
    return values * {"f32": 4, "f16": 2, "bf16": 2}.get(precision, 1)


def _vocab_size(model: Any, folder: Path) -> int:
    size = model.output("logits").get_partial_shape()[2]
    if size.is_dynamic:
        raise ArtifactError(f"`{folder / MODEL_FILE}` does not state how many logits it gives")
    return int(size.get_length())


def _add_slice(model: Any) -> None:
    """Slice the head's input from position `_FIRST_LOGITS` on, an input i64 `[1]`; negative counts from the end."""
    start = opset.parameter(ov.PartialShape([1]), ov.Type.i64, name=_FIRST_LOGITS)
    start.output(0).set_names({_FIRST_LOGITS})
    result = model.output("logits").get_node()
    head = result.input_value(0).get_node()
    while head.get_type_name() in _AFTER_HEAD:
        head = head.input_value(0).get_node()
    after = (
        head if head.get_type_name() in ("MatMul", OPERATOR) else result
    )  # after an unknown head, its output is sliced
    end, i64_one = opset.constant([2**31 - 1], ov.Type.i64), opset.constant([1], ov.Type.i64)
    cut = opset.slice(after.input_value(0), start, end, i64_one, i64_one)
    after.input(0).replace_source_output(cut.output(0))
    model.add_parameters([start])
    model.validate_nodes_and_infer_types()


def _known_device(core: Any, device: str) -> str:
    """`device` in OpenVINO's spelling; EngineError lists the available devices if a part of it is missing."""
    name = device.upper()
    kind, _, members = name.partition(":")
    parts = [name] if kind not in _META_DEVICES else members.split(",") if members else []
    available = list(core.available_devices)
    for part in parts:  # a leading minus excludes a device from AUTO
        if not part.startswith("-") and not any(part == known or known.startswith(f"{part}.") for known in available):
            raise EngineError(
                f"device `{device}` is not there", hint=f"available for OpenVINO: {', '.join([*available, 'AUTO'])}"
            )
    return name


def _full_name(core: Any, device: str) -> str:
    try:
        return f", {core.get_property(device, 'FULL_DEVICE_NAME')}"
    except RuntimeError:  # AUTO and the like have none
        return ""


def _reason(error: RuntimeError) -> str:
    """The last line of an OpenVINO message; the lines before it name places in OpenVINO's sources."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1] if lines else type(error).__name__
