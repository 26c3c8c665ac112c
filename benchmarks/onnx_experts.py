"""Experts in ONNX Runtime: products expert by expert, as they are exported, or one QMoE node a layer?

A random Qwen3-MoE is converted (rtn, 4 bits, groups of 64); the second model is the same file with each layer's experts
replaced by a QMoE node on the same codes. Both run a token after a context, and a prompt, with the exported accuracy level
(4: int8 activations) and exactly (0). Times are processor time, the least of `--rounds`.

    python benchmarks/onnx_experts.py [--experts 64 128 256] [--hidden 512] [--inner 256] [--top-k 8]

The last line printed is one JSON document.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import tune_memory
from onnx import helper, numpy_helper

from ovround.conversion.convert import convert
from ovround.options.convert_options import ConvertOptions

PROMPT = 128
Arrays = dict[str, np.ndarray[Any, Any]]


def with_qmoe(model: onnx.ModelProto, layers: int, experts: int, top_k: int) -> onnx.ModelProto:
    """The model with one QMoE node for each layer's experts."""
    values: Arrays = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    made = {output: node for node in model.graph.node for output in node.output}
    for layer in range(layers):
        at = f"model.layers.{layer}.mlp"
        last, first = made[f"{at}.experts"], made[f"{at}.experts/rows"]
        scores = made[f"{at}.experts/probability"].input[0]
        stacks = {kind: _stack(made, values, f"{at}.experts", kind, experts) for kind in ("gate", "up", "down")}
        both = [np.stack([stacks["gate"][part], stacks["up"][part]], 2) for part in (0, 1)]
        both = [array.reshape(experts, -1, array.shape[-1]) for array in both]
        names = [f"{at}.qmoe/{name}" for name in ("fc1", "fc1_scales", "fc2", "fc2_scales")]
        for name, array in zip(names, (*both, *stacks["down"]), strict=True):
            model.graph.initializer.append(numpy_helper.from_array(np.ascontiguousarray(array), name))
        # input, router, fc1, its scales and bias, fc2, its scales and bias
        inputs = [first.input[0], scores, names[0], names[1], "", names[2], names[3], ""]
        node = helper.make_node(
            "QMoE", inputs, [last.output[0]], f"{at}.qmoe", domain="com.microsoft", k=top_k, activation_type="swiglu",
            swiglu_fusion=1, activation_alpha=1.0, activation_beta=0.0, normalize_routing_weights=1, expert_weight_bits=4,
            block_size=64, accuracy_level=4, weights_prepacked=0,
        )  # fmt: skip
        last.output[0] = f"{last.output[0]}/unused"
        model.graph.node.append(node)
    return _pruned(model)


def _stack(made: dict[str, Any], values: Arrays, at: str, kind: str, experts: int) -> tuple[Any, Any]:
    """Codes `[E, N, K / 2]` and scales `[E, N, K / 64]` of all experts."""
    nodes = [made[f"{at}.{expert}.{kind}_proj"] for expert in range(experts)]
    if any(node.op_type != "MatMulNBits" for node in nodes):
        raise ValueError(f"{nodes[0].op_type} is no MatMulNBits")
    codes = np.stack([values[node.input[1]] for node in nodes])
    scales = np.stack([values[node.input[2]] for node in nodes])
    return codes.reshape(*codes.shape[:2], -1), scales.reshape(*codes.shape[:2], -1)


def _pruned(model: onnx.ModelProto) -> onnx.ModelProto:
    """Without what no output needs, in an order that can be computed."""
    made = {output: node for node in model.graph.node for output in node.output if output}
    kept, done = [], set()

    def visit(name: str) -> None:
        stack = [(name, False)]
        while stack:
            current, seen = stack.pop()
            node = made.get(current)
            if node is None or id(node) in done:
                continue
            if seen:
                done.add(id(node))
                kept.append(node)
                continue
            stack.append((current, True))
            stack.extend((given, False) for given in node.input)

    for output in model.graph.output:
        visit(output.name)
    nodes = [helper_copy(node) for node in kept]
    used = {name for node in nodes for name in node.input}
    initializers = [tensor for tensor in model.graph.initializer if tensor.name in used]
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    initializers = [type(tensor).FromString(tensor.SerializeToString()) for tensor in initializers]
    del model.graph.initializer[:]
    model.graph.initializer.extend(initializers)
    return model


def helper_copy(node: onnx.NodeProto) -> onnx.NodeProto:
    copy = onnx.NodeProto()
    copy.CopyFrom(node)
    return copy


def at_level(model: onnx.ModelProto, level: int) -> onnx.ModelProto:
    for node in model.graph.node:
        for attribute in node.attribute:
            if attribute.name == "accuracy_level":
                attribute.i = level
    return model


def run(model: onnx.ModelProto, folder: Path, rounds: int) -> tuple[dict[str, float], Any]:
    """Milliseconds, and the logits of the prompt."""
    path = folder / "run.onnx"
    for file in folder.glob("run.onnx*"):
        file.unlink()
    onnx.save(model, path, save_as_external_data=True, location="run.onnx.data")
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    start = time.process_time()
    session = ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    figures = {"load_s": round(time.process_time() - start, 2), "nodes": len(model.graph.node)}
    ids = np.random.default_rng(0).integers(3, 200, (1, PROMPT))
    empty = {
        value.name: np.zeros([size if isinstance(size, int) else (0 if "past" in size else 1) for size in _shape(value)], np.float32)
        for value in session.get_inputs() if value.name.startswith("past")
    }  # fmt: skip
    names = [value.name for value in session.get_outputs()]
    given = {"input_ids": ids, "attention_mask": np.ones((1, PROMPT), np.int64), **empty}
    outputs = session.run(names, given)
    past = dict(
        zip([value.name for value in session.get_inputs() if value.name.startswith("past")], outputs[1:], strict=True)
    )
    step = {"input_ids": ids[:, :1], "attention_mask": np.ones((1, PROMPT + 1), np.int64), **past}
    for name, feed, count in (("prompt_ms", given, rounds), ("token_ms", step, 8 * rounds)):
        times = []
        for _ in range(count):
            start = time.process_time()
            session.run(names, feed)
            times.append(time.process_time() - start)
        figures[name] = round(1e3 * min(times), 2)
    return figures, outputs[0]


def _shape(value: Any) -> list[Any]:
    return list(value.shape)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--experts", type=int, nargs="+", default=[64, 128, 256])
    for name, default in {"hidden": 512, "inner": 256, "top-k": 8, "layers": 2, "rounds": 5}.items():
        parser.add_argument(f"--{name}", type=int, default=default, help=f"default {default}")
    arguments = parser.parse_args()
    results = {}
    for experts in arguments.experts:
        arguments.experts = experts
        with tempfile.TemporaryDirectory(prefix="onnx-experts-") as scratch:
            folder = Path(scratch)
            tune_memory.write_model(folder / "model", arguments)
            options = ConvertOptions(
                formats=("onnx",), bits=4, group_size=64, recipe="rtn", lm_head_bits=16, embedding_bits=16
            )
            out = convert(folder / "model", folder / "out", options).folders[0]
            figures: dict[str, Any] = {}
            for level in (4, 0):
                plain = at_level(onnx.load(out / "model.onnx"), level)
                figures[f"products_level_{level}"], expected = run(plain, folder, arguments.rounds)
                fresh = onnx.load(out / "model.onnx")  # saving has moved the other one's weights
                fused = at_level(with_qmoe(fresh, arguments.layers, experts, arguments.top_k), level)
                figures[f"qmoe_level_{level}"], logits = run(fused, folder, arguments.rounds)
                error = np.sqrt(np.mean((logits - expected) ** 2) / np.mean(expected**2))
                figures[f"qmoe_level_{level}"]["relative_rms"] = float(f"{error:.2g}")
        results[experts] = figures
        print(experts, json.dumps(figures), flush=True)
    print(json.dumps(results))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
