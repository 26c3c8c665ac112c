"""`Ops` as OpenVINO nodes: the stateful decoder that openvino_genai, OpenVINO Model Server and optimum-intel read.

The contract (openvino_genai 2026.4, src/cpp/src/utils.cpp): inputs `input_ids`, `attention_mask`, `position_ids` i64
`[B, T]` and `beam_idx` i32 `[B]`; output `logits` f32 `[B, T, V]`; each layer's cache a variable that starts as
`[B, H_kv, 0, D]` zeros (the literal 0 tells the sequence axis), reordered by `beam_idx`, grown along axis 2. Patterns are
written as the CPU plugin fuses them: RMS, RoPE, ScaledDotProductAttention with its cache, FullyConnected with compressed
weights. Module names are kept in the nodes' names, where LoRA adapters look for them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

import numpy as np
import openvino as ov
from openvino import opset13 as opset
from openvino.utils.node_factory import NodeFactory

from ovround.exporters.openvino.compressed import ORDER
from ovround.exporters.openvino.constants import ConstantFile
from ovround.exporters.openvino.decompression import decode_node
from ovround.exporters.openvino.experts import experts
from ovround.exporters.openvino.native import product as native_product
from ovround.exporters.openvino.native import rows as affine_rows
from ovround.exporters.openvino.nodes import named
from ovround.exporters.openvino.rotation import rotated
from ovround.models.ops import Activation, Attention, Experts, rotated_norms, shared_name, sinks_name
from ovround.models.rope import Rope
from ovround.models.state import State
from ovround.models.verbs import Verb, implementation

MASKED = -65504.0  # the lowest float16: finite, so that a row with nothing to attend to gives no NaN on any device


class OpenVINOOps:
    """Emits nodes; weights are looked up by name in the constants file, `native` ones `[N, K]` for the native operator.
    `affine_rows` has the zero point of an affine embedding.

    `states` says what each layer keeps between steps.
    """

    def __init__(
        self,
        file: ConstantFile,
        states: Sequence[Sequence[State]],
        native: Mapping[str, tuple[int, int]] = MappingProxyType({}),
        affine_rows: Mapping[str, int] = MappingProxyType({}),
    ) -> None:
        self.file, self._native, self._affine_rows = file, native, affine_rows
        self._states = {(layer, state.name): state for layer, kept in enumerate(states) for state in kept}
        self.parameters = [
            _parameter("input_ids", ov.Type.i64, 2),
            _parameter("attention_mask", ov.Type.i64, 2),
            _parameter("position_ids", ov.Type.i64, 2),
            _parameter("beam_idx", ov.Type.i32, 1),
        ]
        self.input_ids, self.attention_mask, self.position_ids, self.beam_idx = self.parameters
        self.sinks: list[ov.Node] = []
        self._weights: dict[str, ov.Node] = {}
        self.rotations: dict[Rope, tuple[ov.Node, ov.Node]] = {}
        self._masks: dict[object, ov.Node] = {}
        self._shared: dict[str, ov.Node] = {}
        self.batch = self.axis_size(self.input_ids, 0)

    def embedding(self, ids: ov.Node, at: str) -> ov.Node:
        ids = opset.convert(ids, "i32")
        zero_point = self._affine_rows.get(f"{at}.weight")
        if zero_point is not None:
            return named(affine_rows(self.file, f"{at}.weight", ids, zero_point), at)
        return named(opset.gather(self.weight(f"{at}.weight"), ids, self.i64("axis0", 0)), at)

    def position_embedding(self, ids: ov.Node, at: str) -> ov.Node:
        positions = opset.convert(self.position_ids, "i32")
        return named(opset.gather(self.weight(f"{at}.weight"), positions, self.i64("axis0", 0)), at)

    def linear(self, x: ov.Node, at: str) -> ov.Node:
        if f"{at}.weight{ORDER}" in self.file.entries:
            x = opset.gather(x, self.file.node(f"{at}.weight{ORDER}"), self.i64("axis2", 2))
        native = self._native.get(f"{at}.weight")
        if native is None:
            product = named(opset.matmul(x, self.weight(f"{at}.weight"), False, True), at)
        else:
            product = named(native_product(self.file, f"{at}.weight", x, native), at)
        if f"{at}.bias" not in self.file.entries:
            return product
        return named(opset.add(product, self.weight(f"{at}.bias")), f"{at}/bias")

    def rms_norm(self, x: ov.Node, at: str, eps: float, heads: int = 1) -> ov.Node:
        weight = self.weight(f"{at}.weight")
        if heads > 1:
            size = weight.output(0).get_partial_shape()[0].get_length()
            parts = opset.reshape(x, self.i64(f"split/{heads}x{size}", [0, 0, heads, size]), True)
            joined = self.i64(f"joined/{heads * size}", [0, 0, heads * size])
            return opset.reshape(self._rms(parts, weight, at, eps), joined, True)
        return self._rms(x, weight, at, eps)

    def _rms(self, x: ov.Node, weight: ov.Node, at: str, eps: float) -> ov.Node:
        mean = opset.reduce_mean(opset.power(x, self.f32("two", 2.0)), self.i64("last_axis", [-1]), True)
        root = opset.sqrt(opset.add(mean, self.f32(f"{at}/eps", eps)))
        normal = opset.multiply(x, opset.divide(self.f32("one", 1.0), root))
        return named(opset.multiply(normal, weight), at)

    def layer_norm(self, x: ov.Node, at: str, eps: float) -> ov.Node:
        normal = opset.mvn(x, self.i64("last_axis", [-1]), True, eps, "INSIDE_SQRT")
        scaled = opset.multiply(normal, self.weight(f"{at}.weight"))
        if f"{at}.bias" not in self.file.entries:
            return named(scaled, at)
        return named(opset.add(scaled, self.weight(f"{at}.bias")), at)

    def attention(self, q: ov.Node, k: ov.Node | None, v: ov.Node | None, layer: int, spec: Attention) -> ov.Node:
        at = f"model.layers.{layer}.self_attn"
        query = self._split_heads(q, spec.num_heads, spec)
        if spec.rope is not None:
            query = rotated(self, query, spec, f"{at}.q_rope")
        if spec.rotated_norm_eps is not None:
            norm = rotated_norms(layer)[0]
            query = self._rms(query, self.weight(f"{norm}.weight"), norm, spec.rotated_norm_eps)
        key, value = self._keys_and_values(k, v, layer, spec)
        repeats = spec.num_heads // spec.num_key_value_heads
        if repeats > 1:
            key, value = self._repeat_heads(key, repeats, spec), self._repeat_heads(value, repeats, spec)
        mask = self._mask(spec)
        if spec.softcap is None:
            inputs = [query, key, value, mask, self.f32(f"{at}/scale", spec.scale)]
            if spec.sinks:
                by_head = self.i64(f"by_head/{spec.num_heads}", [1, spec.num_heads, 1, 1])
                inputs.append(opset.reshape(self.weight(sinks_name(layer)), by_head, False))
            out = NodeFactory("opset13").create("ScaledDotProductAttention", inputs, {"causal": False})
        else:  # ScaledDotProductAttention has no cap
            scores = self.scale(opset.matmul(query, key, False, True), spec.scale)
            weights = opset.softmax(opset.add(self.softcap(scores, spec.softcap), mask), -1)
            out = opset.matmul(weights, value, False, False)
        out = opset.transpose(named(out, f"{at}.sdpa"), self.i64("heads_order", [0, 2, 1, 3]))
        return opset.reshape(out, self.i64(f"{at}/joined", [0, 0, spec.num_heads * spec.head_dim]), True)

    def _keys_and_values(
        self, k: ov.Node | None, v: ov.Node | None, layer: int, spec: Attention
    ) -> tuple[ov.Node, ov.Node]:
        """All that a query may see, `[B, H_kv, S, D]`: the layer's own cache, or that of another layer."""
        if spec.cache_of is not None:
            return tuple(self.shared(shared_name(spec.cache_of, name)) for name in ("key", "value"))
        key, value = (self._split_heads(part, spec.num_key_value_heads, spec) for part in (k, v))
        if spec.rope is not None:
            key = rotated(self, key, spec, f"model.layers.{layer}.self_attn.k_rope")
        if spec.rotated_norm_eps is not None:
            norm = rotated_norms(layer)[1]
            key = self._rms(key, self.weight(f"{norm}.weight"), norm, spec.rotated_norm_eps)
        cache = self.append(layer, "key", key), self.append(layer, "value", value)
        if spec.shared:
            for name, part in zip(("key", "value"), cache, strict=True):
                self.share(shared_name(layer, name), part)
        return cache

    def share(self, name: str, value: ov.Node) -> None:
        self._shared[name] = value

    def shared(self, name: str) -> ov.Node:
        return self._shared[name]

    def experts(self, x: ov.Node, at: str, spec: Experts, routed: ov.Node | None = None) -> ov.Node:
        return experts(self, x, at, spec, x if routed is None else routed)

    def call(self, verb: Verb, inputs: Sequence[ov.Node], layer: int) -> ov.Node:
        return implementation("openvino", verb.name)(self, verb, inputs, layer)

    def activation(self, x: ov.Node, kind: Activation) -> ov.Node:
        if kind == "silu":
            return opset.swish(x, self.f32("one", 1.0))
        if kind == "sigmoid":
            return opset.sigmoid(x)
        if kind == "hardtanh":
            return opset.clamp(x, -1.0, 1.0)
        if kind in ("relu", "relu2"):
            relu = opset.relu(x)
            return relu if kind == "relu" else opset.multiply(relu, relu)
        return opset.gelu(x, "TANH" if kind == "gelu_tanh" else "ERF")

    def softcap(self, x: ov.Node, cap: float) -> ov.Node:
        return self.scale(opset.tanh(self.scale(x, 1 / cap)), cap)

    def scale(self, x: ov.Node, factor: float) -> ov.Node:
        return opset.multiply(x, self.f32(f"scale/{factor!r}", factor))

    def add(self, x: ov.Node, y: ov.Node) -> ov.Node:
        return opset.add(x, y)

    def mul(self, x: ov.Node, y: ov.Node) -> ov.Node:
        return opset.multiply(x, y)

    def model(self, logits: ov.Node, name: str) -> ov.Model:
        """The finished model around `logits` `[B, T, V]`."""
        result = opset.result(logits)
        result.output(0).set_names({"logits"})
        named(result, "logits")
        return ov.Model([result], self.sinks, self.parameters, name)

    def weight(self, name: str) -> ov.Node:
        """The decoded weight; one sub-graph serves every reader of the name, so tied tables are stored and decoded once."""
        if name not in self._weights:
            self._weights[name] = decode_node(self.file, name)
        return self._weights[name]

    def _split_heads(self, x: ov.Node, heads: int, spec: Attention) -> ov.Node:
        """`[B, T, heads * D]` -> `[B, heads, T, D]`."""
        shape = self.i64(f"split/{heads}x{spec.head_dim}", [0, 0, heads, spec.head_dim])
        return opset.transpose(opset.reshape(x, shape, True), self.i64("heads_order", [0, 2, 1, 3]))

    def past(self, layer: int, name: str, shape: Sequence[int] = ()) -> ov.Node:
        """The layer's state before this step, `[B, *shape]`, its rows in the order that `beam_idx` says.

        `shape` where OpenVINO's fused operator keeps more than the state declares.
        """
        state = self._states[layer, name]
        kept = tuple(shape) or state.shape
        sizes = "x".join(str(size) for size in kept if size)
        fresh = self.i64(f"{'empty' if state.rewinds else 'state'}/{sizes}", list(kept))
        start = opset.broadcast(self.f32("zero", 0.0), opset.concat([self.batch, fresh], 0))
        known = ov.PartialShape([-1, *(size or -1 for size in kept)])
        past = opset.read_value(start, self._variable(layer, state), ov.Type.f32, known)
        return opset.gather(named(past, state.past(layer)), self.beam_idx, self.i64("axis0", 0))

    def keep(self, layer: int, name: str, value: ov.Node) -> None:
        """Leave `value` as the layer's state for the next step."""
        state = self._states[layer, name]
        self.sinks.append(opset.assign(named(value, state.present(layer)), self._variable(layer, state)))

    def append(self, layer: int, name: str, fresh: ov.Node) -> ov.Node:
        """The state's past followed by `fresh` along the axis that grows; it is also the next step's past."""
        grows = self._states[layer, name].grows
        grown = opset.concat([self.past(layer, name), fresh], 1 + (grows or 0))
        self.keep(layer, name, grown)
        return grown

    def _variable(self, layer: int, state: State) -> str:
        return state.past(layer) + state.present(layer)

    def real_tokens(self) -> ov.Node:
        """Which of this step's tokens are no padding, boolean `[B, T]`; a state must not change at padding."""
        return opset.convert(self._step_mask(), "boolean")

    def without_padding(self, x: ov.Node) -> ov.Node:
        """`[B, T, features]`, zero where a token is padding.

        Shaped as transformers' own masking is exported, which the pass to paged attention removes where it comes before a
        convolution (EliminateConvPaddingMaskGating): it packs rows, and has no mask.
        """
        real = opset.convert(opset.unsqueeze(self._step_mask(), self.i64("axis2", 2)), "f32")
        kept = opset.add(opset.multiply(real, self.f32("one", 1.0)), self.f32("zero", 0.0))
        return opset.multiply(x, kept)

    def _step_mask(self) -> ov.Node:
        """This step's part of the attention mask, i64 `[B, T]`."""
        tokens = opset.multiply(self.axis_size(self.input_ids, 1), self.i64("minus_one1", [-1]))
        end, i64_one = self.i64("feature/None", [2**31 - 1]), self.i64("one1", [1])
        return opset.slice(self.attention_mask, tokens, end, i64_one, i64_one)

    def _repeat_heads(self, x: ov.Node, repeats: int, spec: Attention) -> ov.Node:
        """`[B, H_kv, S, D]` -> `[B, H, S, D]`, each key/value head beside itself."""
        heads, size = spec.num_key_value_heads, spec.head_dim
        wide = opset.unsqueeze(x, self.i64("axis2", 2))
        head = self.i64(f"repeat/{heads}x{repeats}", [heads, repeats])
        repeated_shape = opset.concat([self.batch, head, self.axis_size(x, 2), self.i64(f"size/{size}", [size])], 0)
        wide = opset.broadcast(wide, repeated_shape, broadcast_spec="BIDIRECTIONAL")
        return opset.reshape(wide, self.i64(f"repeated/{heads * repeats}x{size}", [0, heads * repeats, -1, size]), True)

    def _mask(self, spec: Attention) -> ov.Node:
        """What is added to the scores, f32 `[B, 1, T, S]`, with ALiBi `[B, H, T, S]`; one for all layers that attend alike.

        `MASKED` where a query may not look, else 0 or ALiBi's bias.
        """
        kind = spec.sliding_window, spec.num_heads if spec.alibi else None
        if kind not in self._masks:
            allowed = self._causal() if spec.sliding_window is None else self._within_window(spec.sliding_window)
            masked = self.f32("masked", MASKED)
            if spec.alibi:
                self._masks[kind] = opset.select(opset.logical_not(allowed), masked, self._alibi(spec))
            else:
                self._masks[kind] = opset.select(allowed, self.f32("zero", 0.0), masked)
            if spec.sliding_window is not None:
                ends = self.i64("index3", [3])
                self._masks[kind] = opset.slice(
                    self._masks[kind],
                    self.i64("zero1", [0]),
                    self.axis_size(self.attention_mask, 1),
                    self.i64("one1", [1]),
                    ends,
                )
        return self._masks[kind]

    def _alibi(self, spec: Attention) -> ov.Node:
        """Each head's slope times the key's position, f32 `[1, H, 1, S]`; the last key's is 0, so that sums stay small.

        Two reshapes that change nothing, and the slopes as first factor, make it general_alibi_pattern: see `_within_window`.
        """
        keys = opset.convert(self._indices()[0], "f32")
        last = opset.convert(opset.subtract(self._total(), self.i64("scalar1", 1)), "f32")
        slopes = self.f32(f"alibi/{spec.num_heads}", np.array(spec.slopes(), np.float32).reshape(1, -1, 1, 1))
        bias = opset.multiply(slopes, opset.subtract(keys, last))
        for shape in ([spec.num_heads, 1, -1], [1, spec.num_heads, 1, -1]):
            bias = opset.reshape(bias, self.i64(f"alibi/{shape}", shape), False)
        return bias

    def _total(self) -> ov.Node:
        """S, i64 scalar."""
        return opset.squeeze(self.axis_size(self.attention_mask, 1), self.i64("axis0", 0))

    def _indices(self) -> tuple[ov.Node, ov.Node]:
        """Places in the padded batch: of keys, i64 `[1, 1, 1, S]`, and of queries, `[1, 1, T, 1]`."""
        zero, i64_one = self.i64("scalar0", 0), self.i64("scalar1", 1)
        tokens = opset.squeeze(self.axis_size(self.input_ids, 1), self.i64("axis0", 0))
        total = self._total()
        keys = opset.range(zero, total, i64_one, "i64")
        queries = opset.range(opset.subtract(total, tokens), total, i64_one, "i64")
        return (
            opset.unsqueeze(keys, self.i64("axes012", [0, 1, 2])),
            opset.unsqueeze(queries, self.i64("axes013", [0, 1, 3])),
        )

    def _real(self) -> ov.Node:
        """Which keys are no padding, boolean `[B, 1, 1, S]`."""
        return opset.convert(opset.unsqueeze(self.attention_mask, self.i64("axes12", [1, 2])), "boolean")

    def _causal(self) -> ov.Node:
        keys, queries = self._indices()
        return opset.logical_and(opset.less_equal(keys, queries), self._real())

    def _within_window(self, sliding_window: int) -> ov.Node:
        """The operators of transformers' own mask as optimum-intel exports it.

        OpenVINO's pass to paged attention drops every mask, and reads the window from this one shape
        (gpt_oss_sliding_window_pattern); with any other shape, openvino_genai would silently attend to the whole text.
        """
        keys, queries = self._indices()
        inside = opset.greater(keys, opset.add(queries, self.i64(f"window/{sliding_window}", -sliding_window)))
        every = opset.convert(self.i64("scalar1", 1), "boolean")
        allowed = opset.bitwise_and(opset.bitwise_and(every, inside), opset.less_equal(keys, queries))
        allowed = opset.bitwise_and(opset.bitwise_and(every, allowed), self._real())
        return opset.broadcast(allowed, opset.shape_of(allowed, "i64"))

    def axis_size(self, x: ov.Node, axis: int) -> ov.Node:
        """The size of one axis as i64 `[1]`."""
        return opset.gather(opset.shape_of(x, "i64"), self.i64(f"index{axis}", [axis]), self.i64("axis0", 0))

    def i64(self, name: str, values: int | list[int]) -> ov.Node:
        return self.file.small(f"const/{name}", "i64", values)

    def f32(self, name: str, values: Any) -> ov.Node:
        return self.file.small(f"const/{name}", "f32", values)


def _parameter(name: str, kind: ov.Type, rank: int) -> ov.Node:
    node = opset.parameter(ov.PartialShape([-1] * rank), kind)
    node.output(0).set_names({name})
    return named(node, name)
