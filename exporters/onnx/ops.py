"""`Ops` as ONNX nodes: the decoder graph that onnxruntime-genai, and our runtime, feed on the CPU.

The contract (onnxruntime-genai 0.18, its model builder's Llama graph): inputs `input_ids` int64 `[B, T]`,
`attention_mask` int64 `[B, S]` with S = past + T, `past_key_values.{layer}.key/.value` float32 `[B, H_kv, past, D]`;
outputs `logits` float32 `[B, T, V]`, `present.{layer}.key/.value` `[B, H_kv, S, D]`. Past and present may be one
buffer, of S or more positions.

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

import numpy as np
import onnx
from numpy.typing import NDArray

from ovround.exporters.onnx.external_data import DataFile
from ovround.exporters.onnx.matmul_nbits import ORDER, SCALES, ZERO_POINTS, Layout
from ovround.models.decoder import DecoderConfig
from ovround.models.ops import Attention
from ovround.models.rope import Rope

IR_VERSION, OPSET = 10, 21  # those of ONNX 1.16; nothing here needs newer ones
MICROSOFT = "com.microsoft"
# 4: int8 activations with a scale a block, the only fast path for 2 and 8 bits; `runtime.engines.onnx_exact` undoes it.
ACCURACY_LEVEL = 4
HEAD_MULTIPLE, ROTATED_HEAD_MULTIPLE = 8, 16  # head sizes that GroupQueryAttention takes, and that it rotates itself
_FLOAT, _INT64, _INT32 = int(onnx.TensorProto.FLOAT), int(onnx.TensorProto.INT64), int(onnx.TensorProto.INT32)


class OnnxOps:
    """Emits nodes; a value is its name. Weights are looked up by name in the data file."""

    def __init__(self, file: DataFile, layouts: Mapping[str, Layout], config: DecoderConfig) -> None:
        self.file = file
        self.layouts = layouts
        self.input_ids = "input_ids"
        self._config = config
        self._nodes: list[onnx.NodeProto] = []
        self._constants: dict[str, onnx.TensorProto] = {}
        self._emitted: set[str] = set()
        self._rotations: dict[Rope, tuple[str, str]] = {}

    def embedding(self, ids: str, at: str) -> str:
        name = f"{at}.weight"
        layout = self.layouts.get(name)
        if layout is None:
            return self._float(self._node("Gather", [name, ids], f"{at}/rows"), self.file.entries[name].data_type)
        inputs = [name, ids, name + SCALES, *self._zero_points(name)]
        rows = self._node(
            "GatherBlockQuantized", inputs, f"{at}/rows", MICROSOFT,
            bits=layout.stored_bits, block_size=layout.block_size, gather_axis=0, quantize_axis=1,
        )  # fmt: skip
        if layout.blocks * layout.block_size == layout.shape[1]:
            return rows
        end = self._i64(f"{at}/features", [layout.shape[1]])
        return self._node("Slice", [rows, self._i64("start", [0]), end, self._i64("axis2", [2])], f"{at}/unpadded")

    def linear(self, x: str, at: str) -> str:
        name, bias = f"{at}.weight", f"{at}.bias"
        layout = self.layouts.get(name)
        if layout is None:
            # transB reads [N, K] as it lies: a Transpose would be folded into a second copy in memory, which for a tied
            # table stays beside the first. A 16-bit weight's Cast is folded when the model is loaded.
            product = self._node("FusedMatMul", [x, self._float_weight(name)], at, MICROSOFT, transB=1)
            if not self._has(bias):
                return product
            return self._node("Add", [product, self._float_weight(bias)], f"{at}/biased")
        if self._has(name + ORDER):
            x = self._node("Gather", [x, name + ORDER], f"{at}/ordered", axis=2)
        codes = name
        if self.file.entries[name].shape == layout.table_shape:  # tied: one table on disk, seen in two shapes
            codes = self.file.view(f"{name}/blocks", name, layout.matmul_shape)
        inputs = [x, codes, name + SCALES, *self._zero_points(name)]
        if self._has(bias):
            inputs += [""] * (5 - len(inputs)) + [self._float_weight(bias)]
        return self._node(
            "MatMulNBits", inputs, at, MICROSOFT, N=layout.shape[0], K=layout.shape[1], bits=layout.stored_bits,
            block_size=layout.block_size, accuracy_level=ACCURACY_LEVEL,
        )  # fmt: skip

    def rms_norm(self, x: str, at: str, eps: float) -> str:
        weight = self._float_weight(f"{at}.weight")
        return self._node("SimplifiedLayerNormalization", [x, weight], at, axis=-1, epsilon=eps, stash_type=1)

    def attention(self, q: str, k: str, v: str, layer: int, spec: Attention) -> str:
        past = [f"past_key_values.{layer}.{part}" for part in ("key", "value")]
        present = [f"present.{layer}.{part}" for part in ("key", "value")]
        tables = self._rotation(spec.rope)
        fused = spec.head_dim % ROTATED_HEAD_MULTIPLE == 0
        if not fused:
            q, k = (self._rotated(x, tables) for x in (q, k))
        return self._node(
            "GroupQueryAttention", [q, k, v, *past, *self._lengths(), *(tables if fused else ())],
            f"model.layers.{layer}.self_attn", MICROSOFT, present,
            num_heads=spec.num_heads, kv_num_heads=spec.num_key_value_heads, scale=spec.scale, do_rotary=int(fused),
        )  # fmt: skip

    def silu(self, x: str) -> str:
        number = len(self._nodes)
        return self._node("Mul", [x, self._node("Sigmoid", [x], f"{x}/sigmoid{number}")], f"{x}/silu{number}")

    def add(self, x: str, y: str) -> str:
        return self._node("Add", [x, y], f"{y}/add{len(self._nodes)}")

    def mul(self, x: str, y: str) -> str:
        return self._node("Mul", [x, y], f"{y}/mul{len(self._nodes)}")

    def model(self, logits: str, producer_version: str) -> onnx.ModelProto:
        """The finished model around `logits` `[B, T, V]`; initializers of weights point into the data file."""
        c = self._config
        self._node("Identity", [logits], "logits")
        past: list[int | str] = ["batch_size", c.num_key_value_heads, "past_sequence_length", c.head_dim]
        present: list[int | str] = [*past[:2], "total_sequence_length", c.head_dim]
        inputs = [
            _value("input_ids", _INT64, ["batch_size", "sequence_length"]),
            _value("attention_mask", _INT64, ["batch_size", "total_sequence_length"]),
        ]
        outputs = [_value("logits", _FLOAT, ["batch_size", "sequence_length", c.vocab_size])]
        for layer in range(c.num_hidden_layers):
            for part in ("key", "value"):
                inputs.append(_value(f"past_key_values.{layer}.{part}", _FLOAT, past))
                outputs.append(_value(f"present.{layer}.{part}", _FLOAT, present))
        initializers = [*self.file.initializers(), *self._constants.values()]
        return onnx.helper.make_model(
            onnx.helper.make_graph(self._nodes, "decoder", inputs, outputs, initializers),
            ir_version=IR_VERSION,
            opset_imports=[onnx.helper.make_opsetid("", OPSET), onnx.helper.make_opsetid(MICROSOFT, 1)],
            producer_name="ovround",
            producer_version=producer_version,
        )

    def _node(
        self,
        kind: str,
        inputs: list[str],
        name: str,
        domain: str = "",
        more_outputs: Sequence[str] = (),
        **attributes: int | float,
    ) -> str:
        """Append a node called `name`, and return its first output, which has the same name."""
        node = onnx.helper.make_node(kind, inputs, [name, *more_outputs], name, domain=domain)
        node.attribute.extend(onnx.helper.make_attribute(key, attributes[key]) for key in sorted(attributes))
        self._nodes.append(node)
        return name

    def _has(self, name: str) -> bool:
        return name in self.file.entries

    def _float_weight(self, name: str) -> str:
        return self._float(name, self.file.entries[name].data_type)

    def _float(self, value: str, data_type: int) -> str:
        """`value` as float32; one Cast serves every reader."""
        name = f"{value}/float"
        if data_type == _FLOAT:
            return value
        if name not in self._emitted:
            self._emitted.add(self._node("Cast", [value], name, to=_FLOAT))
        return name

    def _zero_points(self, weight: str) -> list[str]:
        return [weight + ZERO_POINTS] if self._has(weight + ZERO_POINTS) else []

    def _lengths(self) -> tuple[str, str]:
        """Each row's last position, int32 `[B]`, and S, int32 scalar; shared by all layers."""
        last, total = "last_position", "total_length"
        if total not in self._emitted:
            before = self._node("Sub", [self._row_lengths(), self._i64("one", 1)], "last_position_i64")
            self._node("Cast", [before], last, to=_INT32)
            self._emitted.add(self._node("Cast", [self._width("attention_mask")], total, to=_INT32))
        return last, total

    def _rotated(self, x: str, tables: tuple[str, str]) -> str:
        return self._node("RotaryEmbedding", [x, self._positions(), *tables], f"{x}/rope", MICROSOFT)

    def _positions(self) -> str:
        """Position ids, int64 `[B, T]`, as GroupQueryAttention counts: a row's past is its length less T, or else 0."""
        name = "position_ids"
        if name not in self._emitted:
            tokens = self._width("input_ids")
            past = self._node("Sub", [self._row_lengths(), tokens], "past_or_padding")
            past = self._node("Max", [past, self._i64("zero", 0)], "past_length")
            past = self._node("Unsqueeze", [past, self._i64("axis1", [1])], "past_length_column")
            steps = self._node("Range", [self._i64("zero", 0), tokens, self._i64("one", 1)], "steps")
            self._emitted.add(self._node("Add", [past, steps], name))
        return name

    def _row_lengths(self) -> str:
        """Real tokens of each row, past ones included, int64 `[B]`."""
        name = "row_lengths"
        if name not in self._emitted:
            inputs = ["attention_mask", self._i64("axis1", [1])]
            self._emitted.add(self._node("ReduceSum", inputs, name, keepdims=0))
        return name

    def _width(self, value: str) -> str:
        """The size of axis 1 of `value`, an int64 scalar."""
        shape = self._node("Shape", [value], f"{value}/shape")
        return self._node("Gather", [shape, self._i64("index1", 1)], f"{value}/width", axis=0)

    def _rotation(self, rope: Rope) -> tuple[str, str]:
        """cos and sin `[max_position_embeddings, D / 2]`, shared by all layers with the same rope."""
        if rope not in self._rotations:
            names = f"rope{len(self._rotations)}/cos", f"rope{len(self._rotations)}/sin"
            for name, table in zip(names, rope.tables(self._config.max_position_embeddings), strict=True):
                self.file.write(name, _FLOAT, table.shape, table)
            self._rotations[rope] = names
        return self._rotations[rope]

    def _i64(self, name: str, values: int | list[int]) -> str:
        name = f"const/{name}"
        array: NDArray[np.int64] = np.array(values, np.int64)
        self._constants[name] = onnx.numpy_helper.from_array(array, name)
        return name


def _value(name: str, data_type: int, shape: list[int | str]) -> onnx.ValueInfoProto:
    return onnx.helper.make_tensor_value_info(name, data_type, shape)
