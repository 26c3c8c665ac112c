"""`Ops` as ONNX nodes: the decoder graph that onnxruntime-genai, and our runtime, feed on the CPU.

The contract (onnxruntime-genai 0.18, its model builder's Llama graph): inputs `input_ids` int64 `[B, T]`,
`attention_mask` int64 `[B, S]` with S = past + T, `past_key_values.{layer}.key/.value` float32 `[B, H_kv, past, D]`;
outputs `logits` float32 `[B, T, V]`, `present.{layer}.key/.value` `[B, H_kv, S, D]`. Past and present may be one
buffer, of S or more positions. A state of fixed size is `past_state.{layer}.{name}` and `present_state.{layer}.{name}`, two
buffers (`ovround.models.state`).

Rows of unequal length: GroupQueryAttention (com.microsoft, since version 1) knows a row by its length alone, here the
sum of its mask, and counts positions from the row's first token. So prompts are padded on the *right*: the logits of a
row's last real token are the ones to read, and its next token takes the place of its first padding. Padding on the
*left* is not supported: it would be attended to as if it were text, without an error. On top of a past, a batch takes
one token a row and call; several at once need a batch of one.

A token id beyond the vocabulary is an error where the embedding is float, but a row of zeros where it is quantised:
callers check ids.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType

import numpy as np
import onnx
from numpy.typing import NDArray

from ovround.exporters.native_parts import inputs_of
from ovround.exporters.onnx.affine_embedding import affine_embedding
from ovround.exporters.onnx.attention_inputs import alibi, no_keys
from ovround.exporters.onnx.experts import experts
from ovround.exporters.onnx.external_data import DataFile
from ovround.exporters.onnx.fused import FusedWeight
from ovround.exporters.onnx.matmul_nbits import ORDER, SCALES, ZERO_POINTS, Layout
from ovround.exporters.onnx.rotation import rotated, rotates_itself, tables
from ovround.models.decoder import DecoderConfig
from ovround.models.ops import Activation, Attention, Experts, rotated_norms, sinks_name
from ovround.models.rope import Rope
from ovround.models.state import State
from ovround.models.verbs import Verb, implementation
from ovround.tensors.native_layout import OPERATOR
from ovround.tensors.native_layout import OPSET as OVROUND

IR_VERSION, OPSET = 10, 21  # those of ONNX 1.16; nothing here needs newer ones
MICROSOFT = "com.microsoft"
# 4: int8 activations with a scale a block, the only fast path for 2 and 8 bits; `runtime.engines.onnx_exact` undoes it.
ACCURACY_LEVEL = 4
_ATTENTION_BIAS, _HEAD_SINK = 10, 11  # their places among the operator's inputs
_FLOAT, _INT64, _INT32 = int(onnx.TensorProto.FLOAT), int(onnx.TensorProto.INT64), int(onnx.TensorProto.INT32)


class OnnxOps:
    """Emits nodes; a value is its name. Weights are looked up by name in the data file, `native` ones `[N, K]` for our operator.

    `states` says what each layer keeps between steps.
    """

    def __init__(
        self, file: DataFile, layouts: Mapping[str, Layout], config: DecoderConfig, states: Sequence[Sequence[State]],
        fused_weights: Sequence[FusedWeight] = (), native: Mapping[str, tuple[int, int]] = MappingProxyType({}),
        affine_rows: Mapping[str, int] = MappingProxyType({}),
    ) -> None:  # fmt: skip
        self.file = file
        self.layouts = layouts
        self._native, self._affine_rows = native, affine_rows
        self.input_ids = "input_ids"
        self.config = config
        self._states = {(layer, state.name): state for layer, kept in enumerate(states) for state in kept}
        self._nodes: list[onnx.NodeProto] = []
        self._fused_weights = {name: fused_weight for fused_weight in fused_weights for name in fused_weight.rows}
        # parts: the fused value, and the node that splits it
        self._splits: dict[tuple[str, ...], tuple[str, onnx.NodeProto]] = {}
        self._constants: dict[str, onnx.TensorProto] = {}
        self.emitted: set[str] = set()
        self._names: dict[str, int] = {}
        self._shared: dict[str, str] = {}
        self._sums: set[str] = set()  # what `add` gave: a bias is added too, but of another shape
        self.rotations: dict[Rope, tuple[str, str]] = {}

    def embedding(self, ids: str, at: str) -> str:
        name = f"{at}.weight"
        if name in self._affine_rows:
            return affine_embedding(self, name, ids, self._affine_rows[name])
        layout = self.layouts.get(name)
        if layout is None:
            return self._float(self.node("Gather", [name, ids], f"{at}/rows"), self.file.entries[name].data_type)
        inputs = [name, ids, name + SCALES, *self.zero_points(name)]
        rows = self.node(
            "GatherBlockQuantized", inputs, f"{at}/rows", MICROSOFT,
            bits=layout.stored_bits, block_size=layout.block_size, gather_axis=0, quantize_axis=1,
        )  # fmt: skip
        if layout.blocks * layout.block_size == layout.shape[1]:
            return rows
        end = self.i64(f"{at}/features", [layout.shape[1]])
        return self.node("Slice", [rows, self.i64("start", [0]), end, self.i64("axis2", [2])], f"{at}/unpadded")

    def linear(self, x: str, at: str) -> str:
        name, bias = f"{at}.weight", f"{at}.bias"
        if name in self._fused_weights:
            return self._part(x, at, self._fused_weights[name])
        layout = self.layouts.get(name)
        if layout is None:
            product = self._native_product(x, at) if name in self._native else self._float_product(x, at)
            if not self._has(bias):
                return product
            return self.node("Add", [product, self.float_weight(bias)], f"{at}/biased")
        if self._has(name + ORDER):
            x = self.node("Gather", [x, name + ORDER], f"{at}/ordered", axis=2)
        return self._product(x, at, layout, self.float_weight(bias) if self._has(bias) else None)

    def _float_product(self, x: str, at: str) -> str:
        # transB reads [N, K] as it lies: a Transpose would be folded into a second copy in memory, which for a tied
        # table stays beside the first. A 16-bit weight's Cast is folded when the model is loaded.
        return self.node("FusedMatMul", [x, self.float_weight(f"{at}.weight")], at, MICROSOFT, transB=1)

    def _native_product(self, x: str, at: str) -> str:
        weights, parts = inputs_of(self.file.entries, f"{at}.weight")
        outputs, inputs = self._native[f"{at}.weight"]
        return self.node(OPERATOR, [x, *parts], at, OVROUND, weights=weights, outputs=outputs, inputs=inputs, exact=0)

    def _part(self, x: str, at: str, fused_weight: FusedWeight) -> str:
        """The product with one part of a fused weight; the first call emits the product of all parts."""
        if at not in self.emitted:
            whole = fused_weight.name.removesuffix(".weight")
            parts = [name.removesuffix(".weight") for name in fused_weight.rows]
            biases = [self.float_weight(f"{part}.bias") for part in parts if self._has(f"{part}.bias")]
            bias = self.node("Concat", biases, f"{whole}.bias", axis=0) if biases else None
            product = self._product(x, whole, self.layouts[fused_weight.name], bias)
            sizes = self.i64(f"rows/{list(fused_weight.rows.values())}", list(fused_weight.rows.values()))
            self.node("Split", [product, sizes], parts[0], "", parts[1:], axis=-1)
            self._splits[tuple(parts)] = product, self._nodes[-1]
            self.emitted.update(parts)
        return at

    def _product(self, x: str, at: str, layout: Layout, bias: str | None) -> str:
        """MatMulNBits with `{at}.weight`."""
        name = codes = f"{at}.weight"
        if self.file.entries[name].shape == layout.table_shape:  # tied: one table on disk, seen in two shapes
            codes = self.file.view(f"{name}/blocks", name, layout.matmul_shape)
        inputs = [x, codes, name + SCALES, *self.zero_points(name)]
        if bias is not None:
            inputs += [""] * (5 - len(inputs)) + [bias]
        return self.node(
            "MatMulNBits", inputs, at, MICROSOFT, N=layout.shape[0], K=layout.shape[1], bits=layout.stored_bits,
            block_size=layout.block_size, accuracy_level=ACCURACY_LEVEL,
        )  # fmt: skip

    def position_embedding(self, ids: str, at: str) -> str:
        rows = self.node("Gather", [f"{at}.weight", self.positions()], f"{at}/rows")
        return self._float(rows, self.file.entries[f"{at}.weight"].data_type)

    def rms_norm(self, x: str, at: str, eps: float, heads: int = 1) -> str:
        weight = self.float_weight(f"{at}.weight")
        if heads > 1:
            size = self.file.entries[f"{at}.weight"].shape[0]
            x = self.node("Reshape", [x, self.i64(f"split/{heads}x{size}", [0, 0, heads, size])], f"{at}/heads")
        if heads == 1 and x in self._sums and self._nodes[-1].output[0] == x:
            return self._sum_and_norm(self._nodes.pop(), weight, at, eps)
        normal = self.node("SimplifiedLayerNormalization", [x, weight], at, axis=-1, epsilon=eps, stash_type=1)
        if heads == 1:
            return normal
        return self.node("Reshape", [normal, self.i64(f"join/{heads * size}", [0, 0, heads * size])], f"{at}/joined")

    def _sum_and_norm(self, addition: onnx.NodeProto, weight: str, at: str, eps: float) -> str:
        """The residual sum and its norm as one node, whose fourth output is the sum; ONNX Runtime does not fuse them itself."""
        x, y = addition.input
        outputs = ["", "", addition.output[0]]
        return self.node("SkipSimplifiedLayerNormalization", [x, y, weight], at, MICROSOFT, outputs, epsilon=eps)

    def layer_norm(self, x: str, at: str, eps: float) -> str:
        inputs = [x, *(self.float_weight(f"{at}.{kind}") for kind in ("weight", "bias") if self._has(f"{at}.{kind}"))]
        return self.node("LayerNormalization", inputs, at, axis=-1, epsilon=eps, stash_type=1)

    def attention(self, q: str, k: str | None, v: str | None, layer: int, spec: Attention) -> str:
        held_by = layer if spec.cache_of is None else spec.cache_of
        present = [self._states[held_by, part].present(held_by) for part in ("key", "value")]
        if k is None or v is None:  # of no token: all that the operator sees is in the other layer's cache
            k = v = no_keys(self, spec)
            past, present = present, []
        else:
            past = [self.past(layer, part) for part in ("key", "value")]
        inputs = [q, k, v, *past, *self._lengths()]
        fused = rotates_itself(spec)
        if spec.rope is not None and fused:
            inputs += tables(self, spec.rope)
        elif spec.rope is not None:
            inputs[0] = rotated(self, q, spec.rope, spec.num_heads)
            if spec.cache_of is None:
                inputs[1] = rotated(self, k, spec.rope, spec.num_key_value_heads)
        if spec.rotated_norm_eps is not None:
            for index, (at, heads) in enumerate(zip(rotated_norms(layer), (spec.num_heads, spec.num_key_value_heads))):  # noqa: B905
                inputs[index] = self.rms_norm(inputs[index], at, spec.rotated_norm_eps, heads)
        if (q, k, v) in self._splits and inputs[:2] == [q, k]:  # the operator takes all three as one: no need to split
            inputs[0], split = self._splits.pop((q, k, v))
            inputs[1] = inputs[2] = ""
            self._nodes.remove(split)
        if spec.alibi:
            inputs += [""] * (_ATTENTION_BIAS - len(inputs)) + [alibi(self, spec)]
        if spec.sinks:
            inputs += [""] * (_HEAD_SINK - len(inputs)) + [self.float_weight(sinks_name(layer))]
        limits: dict[str, int | float] = (
            {} if spec.sliding_window is None else {"local_window_size": spec.sliding_window}
        )
        if spec.softcap is not None:
            limits["softcap"] = spec.softcap
        if fused and spec.rope is not None and spec.rope.interleaved:
            limits["rotary_interleaved"] = 1
        return self.node(
            "GroupQueryAttention", inputs, f"model.layers.{layer}.self_attn", MICROSOFT, present,
            num_heads=spec.num_heads, kv_num_heads=spec.num_key_value_heads, scale=spec.scale, do_rotary=int(fused), **limits,
        )  # fmt: skip

    def share(self, name: str, value: str) -> None:
        self._shared[name] = value

    def shared(self, name: str) -> str:
        return self._shared[name]

    def experts(self, x: str, at: str, spec: Experts, routed: str | None = None) -> str:
        return experts(self, x, at, spec, x if routed is None else routed)

    def call(self, verb: Verb, inputs: Sequence[str], layer: int) -> str:
        computed: str = implementation("onnx", verb.name)(self, verb, inputs, layer)
        return computed

    def activation(self, x: str, kind: Activation) -> str:
        number = len(self._nodes)
        if kind == "silu":
            return self.node("Mul", [x, self.node("Sigmoid", [x], f"{x}/sigmoid{number}")], f"{x}/silu{number}")
        if kind == "sigmoid":
            return self.node("Sigmoid", [x], f"{x}/sigmoid{number}")
        if kind == "hardtanh":
            return self.node("Clip", [x, self.f32("minus_one", -1.0), self.f32("one", 1.0)], f"{x}/clipped{number}")
        if kind in ("relu", "relu2"):
            relu = self.node("Relu", [x], f"{x}/relu{number}")
            return relu if kind == "relu" else self.node("Mul", [relu, relu], f"{x}/squared{number}")
        return self.node("Gelu", [x], f"{x}/gelu{number}", approximate="tanh" if kind == "gelu_tanh" else "none")

    def softcap(self, x: str, cap: float) -> str:
        bounded = self.node("Tanh", [self.scale(x, 1 / cap)], f"{x}/tanh{len(self._nodes)}")
        return self.scale(bounded, cap)

    def scale(self, x: str, factor: float) -> str:
        return self.node("Mul", [x, self.f32(f"scale/{factor!r}", factor)], f"{x}/scaled{len(self._nodes)}")

    def add(self, x: str, y: str) -> str:
        self._sums.add(total := self.node("Add", [x, y], f"{y}/add{len(self._nodes)}"))
        return total

    def mul(self, x: str, y: str) -> str:
        return self.node("Mul", [x, y], f"{y}/mul{len(self._nodes)}")

    def model(self, logits: str, producer_version: str) -> onnx.ModelProto:
        """The finished model around `logits` `[B, T, V]`; initializers of weights point into the data file."""
        c = self.config
        self.node("Identity", [logits], "logits")
        inputs = [
            _value("input_ids", _INT64, ["batch_size", "sequence_length"]),
            _value("attention_mask", _INT64, ["batch_size", "total_sequence_length"]),
        ]
        outputs = [_value("logits", _FLOAT, ["batch_size", "sequence_length", c.vocab_size])]
        for (layer, _), state in self._states.items():
            inputs.append(_value(state.past(layer), _FLOAT, _sizes(state, "past_sequence_length")))
            outputs.append(_value(state.present(layer), _FLOAT, _sizes(state, "total_sequence_length")))
        initializers = [*self.file.initializers(), *self._constants.values()]
        domains = {"": OPSET, MICROSOFT: 1} | ({OVROUND: 1} if self._native else {})
        return onnx.helper.make_model(
            onnx.helper.make_graph(self._nodes, "decoder", inputs, outputs, initializers),
            ir_version=IR_VERSION,
            opset_imports=[onnx.helper.make_opsetid(domain, version) for domain, version in domains.items()],
            producer_name="ovround",
            producer_version=producer_version,
        )

    def past(self, layer: int, name: str) -> str:
        """The layer's state before this step, `[B, *shape]`."""
        return self._states[layer, name].past(layer)

    def keep(self, layer: int, name: str, value: str) -> None:
        """Leave `value` as the layer's state for the next step."""
        self.node("Identity", [value], self._states[layer, name].present(layer))

    def node(
        self,
        kind: str,
        inputs: list[str],
        name: str,
        domain: str = "",
        more_outputs: Sequence[str] = (),
        /,
        **attributes: int | float | str | Sequence[int] | onnx.GraphProto,
    ) -> str:
        """Append a node called `name`, and return its first output, which has the same name.

        A module that is called again gets a number behind its name.
        """
        self._names[name] = self._names.get(name, 0) + 1
        if self._names[name] > 1:
            name = f"{name}/{self._names[name]}"
        node = onnx.helper.make_node(kind, inputs, [name, *more_outputs], name, domain=domain)
        node.attribute.extend(onnx.helper.make_attribute(key, attributes[key]) for key in sorted(attributes))
        self._nodes.append(node)
        return name

    def _has(self, name: str) -> bool:
        return name in self.file.entries

    def float_weight(self, name: str) -> str:
        """The weight `name`, which is not quantised, as float32."""
        return self._float(name, self.file.entries[name].data_type)

    def _float(self, value: str, data_type: int) -> str:
        """`value` as float32; one Cast serves every reader."""
        name = f"{value}/float"
        if data_type == _FLOAT:
            return value
        if name not in self.emitted:
            self.emitted.add(self.node("Cast", [value], name, to=_FLOAT))
        return name

    def zero_points(self, weight: str) -> list[str]:
        """The input with a weight's zero points, none where they are implied."""
        return [weight + ZERO_POINTS] if self._has(weight + ZERO_POINTS) else []

    def _lengths(self) -> tuple[str, str]:
        """Each row's last position, int32 `[B]`, and S, int32 scalar; shared by all layers."""
        last, total = "last_position", "total_length"
        if total not in self.emitted:
            before = self.node("Sub", [self.row_lengths(), self.i64("one", 1)], "last_position_i64")
            self.node("Cast", [before], last, to=_INT32)
            self.emitted.add(self.node("Cast", [self.width("attention_mask")], total, to=_INT32))
        return last, total

    def positions(self) -> str:
        """Position ids, int64 `[B, T]`, as GroupQueryAttention counts: a row's past is its length less T, or else 0."""
        name = "position_ids"
        if name not in self.emitted:
            tokens = self.width("input_ids")
            past = self.node("Sub", [self.row_lengths(), tokens], "past_or_padding")
            past = self.node("Max", [past, self.i64("zero", 0)], "past_length")
            past = self.node("Unsqueeze", [past, self.i64("axis1", [1])], "past_length_column")
            steps = self.node("Range", [self.i64("zero", 0), tokens, self.i64("one", 1)], "steps")
            self.emitted.add(self.node("Add", [past, steps], name))
        return name

    def row_lengths(self) -> str:
        """Real tokens of each row, past ones included, int64 `[B]`."""
        name = "row_lengths"
        if name not in self.emitted:
            inputs = ["attention_mask", self.i64("axis1", [1])]
            self.emitted.add(self.node("ReduceSum", inputs, name, keepdims=0))
        return name

    def width(self, value: str) -> str:
        """The size of axis 1 of `value`, an int64 scalar."""
        name = f"{value}/width"
        if name not in self.emitted:
            shape = self.node("Shape", [value], f"{value}/shape")
            self.emitted.add(self.node("Gather", [shape, self.i64("index1", 1)], name, axis=0))
        return name

    def i64(self, name: str, values: int | list[int]) -> str:
        name = f"const/{name}"
        array: NDArray[np.int64] = np.array(values, np.int64)
        self._constants[name] = onnx.numpy_helper.from_array(array, name)
        return name

    def u8(self, name: str, value: int) -> str:
        name = f"const/u8/{name}"
        self._constants[name] = onnx.numpy_helper.from_array(np.array(value, np.uint8), name)
        return name

    def f32(self, name: str, values: float | NDArray[np.float32]) -> str:
        name = f"const/float/{name}"
        self._constants[name] = onnx.numpy_helper.from_array(np.asarray(values, np.float32), name)
        return name


def _sizes(state: State, length: str) -> list[int | str]:
    """The axes of a state in the graph; `length` names the one that grows."""
    axes: list[int | str] = ["batch_size", *state.shape]
    if state.grows is not None:
        axes[1 + state.grows] = length
    return axes


def _value(name: str, data_type: int, shape: list[int | str]) -> onnx.ValueInfoProto:
    return onnx.helper.make_tensor_value_info(name, data_type, shape)
