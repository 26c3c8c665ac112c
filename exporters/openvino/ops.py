"""`Ops` as OpenVINO nodes: the stateful decoder that openvino_genai, OpenVINO Model Server and optimum-intel read.

The contract (openvino_genai 2026.4, src/cpp/src/utils.cpp): inputs `input_ids`, `attention_mask`, `position_ids` i64
`[B, T]` and `beam_idx` i32 `[B]`; output `logits` f32 `[B, T, V]`; each layer's cache a variable that starts as
`[B, H_kv, 0, D]` zeros (the literal 0 tells the sequence axis), reordered by `beam_idx`, grown along axis 2. Patterns are
written as the CPU plugin fuses them: RMS, RoPE, ScaledDotProductAttention with its cache, FullyConnected with compressed
weights. Module names are kept in the nodes' names, where LoRA adapters look for them.
"""

from __future__ import annotations

from typing import Any

import openvino as ov
from openvino import opset13 as opset

from ovround.exporters.openvino.compressed import ORDER, decode_node
from ovround.exporters.openvino.constants import ConstantFile
from ovround.models.ops import Attention
from ovround.models.rope import Rope

MASKED = -65504.0  # the lowest float16: finite, so that a row with nothing to attend to gives no NaN on any device


class OpenVINOOps:
    """Emits nodes; weights are looked up by name in the constants file."""

    def __init__(self, file: ConstantFile) -> None:
        self.file = file
        self.parameters = [
            _parameter("input_ids", ov.Type.i64, 2),
            _parameter("attention_mask", ov.Type.i64, 2),
            _parameter("position_ids", ov.Type.i64, 2),
            _parameter("beam_idx", ov.Type.i32, 1),
        ]
        self.input_ids, self.attention_mask, self.position_ids, self.beam_idx = self.parameters
        self.sinks: list[ov.Node] = []
        self._weights: dict[str, ov.Node] = {}
        self._rotations: dict[Rope, tuple[ov.Node, ov.Node]] = {}
        self._mask: ov.Node | None = None
        self._batch = self._axis_size(self.input_ids, 0)

    def embedding(self, ids: ov.Node, at: str) -> ov.Node:
        ids = opset.convert(ids, "i32")
        return _named(opset.gather(self._weight(f"{at}.weight"), ids, self._i64("axis0", 0)), at)

    def linear(self, x: ov.Node, at: str) -> ov.Node:
        if f"{at}.weight{ORDER}" in self.file.entries:
            x = opset.gather(x, self.file.node(f"{at}.weight{ORDER}"), self._i64("axis2", 2))
        product = _named(opset.matmul(x, self._weight(f"{at}.weight"), False, True), at)
        if f"{at}.bias" not in self.file.entries:
            return product
        return _named(opset.add(product, self._weight(f"{at}.bias")), f"{at}/bias")

    def rms_norm(self, x: ov.Node, at: str, eps: float) -> ov.Node:
        mean = opset.reduce_mean(opset.power(x, self._f32("two", 2.0)), self._i64("last_axis", [-1]), True)
        root = opset.sqrt(opset.add(mean, self._f32(f"{at}/eps", eps)))
        normal = opset.multiply(x, opset.divide(self._f32("one", 1.0), root))
        return _named(opset.multiply(normal, self._weight(f"{at}.weight")), at)

    def attention(self, q: ov.Node, k: ov.Node, v: ov.Node, layer: int, spec: Attention) -> ov.Node:
        at = f"model.layers.{layer}.self_attn"
        cos, sin = self._rotation(spec.rope)
        query = self._rotate(self._split_heads(q, spec.num_heads, spec), cos, sin, f"{at}.q_rope")
        key = self._rotate(self._split_heads(k, spec.num_key_value_heads, spec), cos, sin, f"{at}.k_rope")
        key = self._cached(key, layer, "key", spec)
        value = self._cached(self._split_heads(v, spec.num_key_value_heads, spec), layer, "value", spec)
        repeats = spec.num_heads // spec.num_key_value_heads
        if repeats > 1:
            key, value = self._repeat_heads(key, repeats, spec), self._repeat_heads(value, repeats, spec)
        scale = self._f32(f"{at}/scale", spec.scale)
        out = opset.scaled_dot_product_attention(query, key, value, self._causal_mask(), scale, False)
        out = opset.transpose(_named(out, f"{at}.sdpa"), self._i64("heads_order", [0, 2, 1, 3]))
        return opset.reshape(out, self._i64(f"{at}/joined", [0, 0, spec.num_heads * spec.head_dim]), True)

    def silu(self, x: ov.Node) -> ov.Node:
        return opset.swish(x, self._f32("one", 1.0))

    def add(self, x: ov.Node, y: ov.Node) -> ov.Node:
        return opset.add(x, y)

    def mul(self, x: ov.Node, y: ov.Node) -> ov.Node:
        return opset.multiply(x, y)

    def model(self, logits: ov.Node, name: str) -> ov.Model:
        """The finished model around `logits` `[B, T, V]`."""
        result = opset.result(logits)
        result.output(0).set_names({"logits"})
        _named(result, "logits")
        return ov.Model([result], self.sinks, self.parameters, name)

    def _weight(self, name: str) -> ov.Node:
        """The decoded weight; one sub-graph serves every reader of the name, so tied tables are stored and decoded once."""
        if name not in self._weights:
            self._weights[name] = decode_node(self.file, name)
        return self._weights[name]

    def _split_heads(self, x: ov.Node, heads: int, spec: Attention) -> ov.Node:
        """`[B, T, heads * D]` -> `[B, heads, T, D]`."""
        shape = self._i64(f"split/{heads}x{spec.head_dim}", [0, 0, heads, spec.head_dim])
        return opset.transpose(opset.reshape(x, shape, True), self._i64("heads_order", [0, 2, 1, 3]))

    def _rotation(self, rope: Rope) -> tuple[ov.Node, ov.Node]:
        """cos and sin `[B, 1, T, D]` of the position ids, shared by all layers with the same rope."""
        if rope not in self._rotations:
            at = f"rope{len(self._rotations)}"
            frequencies = self._f32(f"{at}/inverse_frequencies", rope.inverse_frequencies().reshape(1, -1, 1))
            ones = self._i64("ones2", [1, 1])
            target = opset.concat([self._batch, ones], 0)
            spread = opset.broadcast(frequencies, target, broadcast_spec="BIDIRECTIONAL")
            positions = opset.convert(opset.unsqueeze(self.position_ids, self._i64("axis1", 1)), "f32")
            angles = opset.transpose(opset.matmul(spread, positions, False, False), self._i64("order021", [0, 2, 1]))
            both = opset.concat([angles, angles], -1)
            axis = self._i64("axis1", 1)
            self._rotations[rope] = (
                opset.unsqueeze(opset.cos(both), axis),
                opset.unsqueeze(opset.sin(both), axis),
            )
        return self._rotations[rope]

    def _rotate(self, x: ov.Node, cos: ov.Node, sin: ov.Node, name: str) -> ov.Node:
        """Feature j of `[B, H, T, D]` turned with feature j + D / 2."""
        half = x.output(0).get_partial_shape()[3].get_length() // 2
        zero, middle = self._i64("zero1", [0]), self._i64(f"half/{half}", [half])
        end, step, axis = self._i64("end1", [2**31 - 1]), self._i64("one1", [1]), self._i64("axis3", [3])
        first = opset.slice(x, zero, middle, step, axis)
        second = opset.slice(x, middle, end, step, axis)
        turned = opset.concat([opset.multiply(second, self._f32("minus_one", [[[[-1.0]]]])), first], -1)
        return _named(opset.add(opset.multiply(x, cos), opset.multiply(turned, sin)), name)

    def _cached(self, fresh: ov.Node, layer: int, part: str, spec: Attention) -> ov.Node:
        """The layer's past keys or values with `fresh` `[B, H_kv, T, D]` behind them, `[B, H_kv, S, D]`; also the next step's past."""
        heads, size = spec.num_key_value_heads, spec.head_dim
        name = f"past_key_values.{layer}.{part}present.{layer}.{part}"
        tail = self._i64(f"empty/{heads}x{size}", [heads, 0, size])
        empty = opset.broadcast(self._f32("zero", 0.0), opset.concat([self._batch, tail], 0))
        past = opset.read_value(empty, name, ov.Type.f32, ov.PartialShape([-1, heads, -1, size]))
        past = opset.gather(_named(past, f"past_key_values.{layer}.{part}"), self.beam_idx, self._i64("axis0", 0))
        grown = _named(opset.concat([past, fresh], 2), f"present.{layer}.{part}")
        self.sinks.append(opset.assign(grown, name))
        return grown

    def _repeat_heads(self, x: ov.Node, repeats: int, spec: Attention) -> ov.Node:
        """`[B, H_kv, S, D]` -> `[B, H, S, D]`, each key/value head beside itself."""
        heads, size = spec.num_key_value_heads, spec.head_dim
        wide = opset.unsqueeze(x, self._i64("axis2", 2))
        head = self._i64(f"repeat/{heads}x{repeats}", [heads, repeats])
        target = opset.concat([self._batch, head, self._axis_size(x, 2), self._i64(f"size/{size}", [size])], 0)
        wide = opset.broadcast(wide, target, broadcast_spec="BIDIRECTIONAL")
        return opset.reshape(
            wide, self._i64(f"repeated/{heads * repeats}x{size}", [0, heads * repeats, -1, size]), True
        )

    def _causal_mask(self) -> ov.Node:
        """0 where a query may look and `MASKED` where it may not, f32 `[B, 1, T, S]`; shared by all layers."""
        if self._mask is None:
            zero, one = self._i64("scalar0", 0), self._i64("scalar1", 1)
            tokens = opset.squeeze(self._axis_size(self.input_ids, 1), self._i64("axis0", 0))
            total = opset.squeeze(self._axis_size(self.attention_mask, 1), self._i64("axis0", 0))
            keys = opset.range(zero, total, one, "i64")
            queries = opset.range(opset.subtract(total, tokens), total, one, "i64")
            causal = opset.less_equal(
                opset.unsqueeze(keys, self._i64("axes012", [0, 1, 2])),
                opset.unsqueeze(queries, self._i64("axes013", [0, 1, 3])),
            )
            real = opset.convert(opset.unsqueeze(self.attention_mask, self._i64("axes12", [1, 2])), "boolean")
            allowed = opset.logical_and(causal, real)
            self._mask = opset.select(allowed, self._f32("zero", 0.0), self._f32("masked", MASKED))
        return self._mask

    def _axis_size(self, x: ov.Node, axis: int) -> ov.Node:
        """The size of one axis as i64 `[1]`."""
        return opset.gather(opset.shape_of(x, "i64"), self._i64(f"index{axis}", [axis]), self._i64("axis0", 0))

    def _i64(self, name: str, values: int | list[int]) -> ov.Node:
        return self.file.small(f"const/{name}", "i64", values)

    def _f32(self, name: str, values: Any) -> ov.Node:
        return self.file.small(f"const/{name}", "f32", values)


def _parameter(name: str, kind: ov.Type, rank: int) -> ov.Node:
    node = opset.parameter(ov.PartialShape([-1] * rank), kind)
    node.output(0).set_names({name})
    return _named(node, name)


def _named(node: ov.Node, name: str) -> ov.Node:
    node.set_friendly_name(name)
    return node
