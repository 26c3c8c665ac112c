"""Latent attention and the choice of experts: what is one cache, what is refused, what a graph holds, errors that are seen."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import openvino as ov
import pytest
import torch
from random_model import CONFIGS, relative_rms, write_random_model

from ovround.checkpoint import mapped, open_checkpoint
from ovround.checkpoint.leftovers import left_out, notes
from ovround.conversion.convert import convert
from ovround.errors import ArchitectureError
from ovround.exporters.native_parts import fits_operator
from ovround.measure.torch_model import CheckpointWeights
from ovround.models import from_config
from ovround.models.calls import attention_specs
from ovround.models.ops import Experts, Routing
from ovround.models.parts.experts import ExpertMlp
from ovround.models.torch_ops import TorchOps
from ovround.options.convert_options import ConvertOptions
from ovround.quant.integers.rtn import round_to_nearest
from ovround.quant.plan import make_plan
from ovround.quant.product_dtype import in_type
from ovround.tensors.float_tensor import FloatTensor
from ovround.tensors.scheme import Codebooks, QuantScheme

V3 = CONFIGS["deepseek_v3-0"]
IDS = np.random.default_rng(5).integers(3, 320, (2, 40))


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A DeepSeek-V3 of 4 bits for each engine."""
    folder = tmp_path_factory.mktemp("latent")
    write_random_model(folder / "model", V3)
    options = ConvertOptions(formats=("openvino", "onnx"), bits=4, group_size=32, recipe="rtn", sym=False)
    paths = convert(folder / "model", folder / "out", options).folders
    return {"source": folder / "model", **{path.name: path for path in paths}}


def test_the_cache_is_one_vector_a_token_whatever_the_number_of_heads() -> None:
    decoder = from_config(V3)
    latent, rotated = V3["kv_lora_rank"], V3["qk_rope_head_dim"]
    assert [(state.name, state.shape) for state in decoder.state(0)] == [
        ("key", (1, 0, latent + rotated)),
        ("value", (1, 0, latent + rotated)),
    ]
    (spec,) = attention_specs(decoder)
    assert (spec.num_heads, spec.num_key_value_heads, spec.head_dim) == (4, 1, latent + rotated)


def test_kimi_k2_is_deepseek_v3() -> None:
    assert from_config({**V3, "model_type": "kimi_k2"}) == from_config(V3)


def test_layers_that_predict_further_tokens_are_left_out_by_name(folders: dict[str, Path]) -> None:
    """Block 2 of a model of two, with modules that only such a block has."""
    read = {source.name for source in from_config(V3).sources().values()}
    stored = set(open_checkpoint(folders["source"]).tensors())
    more = ("model.layers.2.enorm.weight", "model.layers.2.eh_proj.weight", "model.layers.2.self_attn.kv_b_proj.weight")
    kinds, foreign = left_out((*sorted(stored), *more), read | stored)
    assert not foreign
    (note,) = notes(kinds)
    assert "3 tensor(s)" in note
    assert "model.layers.2.enorm.weight" in note


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("deepseek_v3-0", {"scoring_func": "softmax"}, "`scoring_func` is 'softmax', a variant that is not supported"),
        ("deepseek_v3-0", {"topk_method": "greedy"}, "`topk_method` is 'greedy', a variant"),
        ("deepseek_v3-0", {"num_key_value_heads": 2}, "`num_key_value_heads` is 2, a variant"),
        ("deepseek_v3-0", {"n_group": 3}, "3 experts a token from 2 of 3 groups (n_group, topk_group) of 8 experts"),
        ("deepseek_v3-0", {"topk_group": 1}, "3 experts a token from 1 of 4 groups"),
        ("deepseek_v3-0", {"qk_rope_head_dim": 15}, "rope over 15 features"),
        ("deepseek_v3-0", {"kv_lora_rank": 0}, "kv_lora_rank is 0; 1 to"),
        ("deepseek_v2-0", {"norm_topk_prob": True}, "`norm_topk_prob` is True, a variant"),
        ("glm4_moe_lite-0", {"mlp_layer_types": ["sparse"]}, "`mlp_layer_types` is ['sparse']; 2 of dense, sparse"),
        ("minimax_m2-0", {"use_qk_norm": False}, "`use_qk_norm` is False, a variant"),
    ],
)
def test_what_is_not_built_is_refused_by_key(name: str, change: dict[str, Any], message: str) -> None:
    with pytest.raises(ArchitectureError) as caught:
        from_config({**CONFIGS[name], **change})
    assert message in str(caught.value)


@pytest.mark.parametrize(
    "change",
    [{"routed_scaling_factor": 2.6}, {"topk_group": 4}, {"rope_interleave": False}, {"norm_topk_prob": False}],
    ids=lambda change: next(iter(change)),
)
def test_a_configuration_read_slightly_wrong_is_seen(folders: dict[str, Path], change: dict[str, Any]) -> None:
    logits = []
    for config in (V3, {**V3, **change}):
        checkpoint, decoder = open_checkpoint(folders["source"]), from_config(config)
        weights = CheckpointWeights(mapped(checkpoint, decoder.sources(), decoder.every_tensor()))
        with torch.no_grad():
            logits.append(decoder.logits(TorchOps(weights), torch.from_numpy(IDS)).numpy())
    assert relative_rms(logits[1], logits[0]) > 1e-3


def test_openvino_folds_the_absorbed_projections_and_fuses_the_experts(folders: dict[str, Path]) -> None:
    model = ov.Core().compile_model(folders["openvino"] / "openvino_model.xml", "CPU", {"INFERENCE_NUM_THREADS": 1})
    nodes = model.get_runtime_model().get_ops()
    kinds = [_kind(node) for node in nodes]
    assert kinds.count("ScaledDotProductAttention") == V3["num_hidden_layers"]
    assert kinds.count("GatherMatmul") == 3  # of the one block with experts, chosen by groups and a bias
    products = [node for node in nodes if _kind(node) == "MatMul"]
    by_head = [node for node in products if node.get_output_partial_shape(0).rank.get_length() == 4]
    assert len(by_head) == 2 * V3["num_hidden_layers"]
    assert {_kind(node.input_value(1).get_node()) for node in by_head} <= {"Const", "Constant"}


def _kind(node: Any) -> str:
    """What the plugin makes of a node."""
    info = node.get_rt_info()
    return str(info["layerType"].astype(str)) if "layerType" in info else str(node.get_type_name())


def test_onnx_runtime_folds_the_absorbed_projections(folders: dict[str, Path], tmp_path: Path) -> None:
    graph = onnx.load(folders["onnx"] / "model.onnx", load_external_data=False).graph
    assert sum(node.op_type == "BitShift" for node in graph.node) > 0
    options = ort.SessionOptions()
    options.log_severity_level = 3
    options.optimized_model_filepath = str(tmp_path / "optimised.onnx")
    ort.InferenceSession(folders["onnx"] / "model.onnx", options, providers=["CPUExecutionProvider"])
    folded = onnx.load(tmp_path / "optimised.onnx", load_external_data=False).graph
    assert not [node.name for node in folded.node if node.op_type in ("BitShift", "BitwiseAnd")]


def test_absorbed_projections_are_no_codebooks_and_not_our_operators() -> None:
    decoder = from_config({**CONFIGS["youtu-0"], "hidden_size": 512, "intermediate_size": 512, "q_lora_rank": 512})
    options = ConvertOptions(codebooks=Codebooks(1, 4, 8), recipe="default")
    plan = make_plan(decoder, options)
    assert plan["model.layers.0.self_attn.k_b_proj"] == QuantScheme(8, plan_group(plan), True)
    assert isinstance(plan["model.layers.0.self_attn.o_proj"], Codebooks)
    name, data = "model.layers.0.self_attn.v_b_proj.weight", np.ones((32, 64), np.float32)
    weight, _ = round_to_nearest(name, FloatTensor(data, "float32"), QuantScheme(4, 32, True))
    assert not fits_operator(weight, name)
    assert fits_operator(weight, name.replace("v_b_proj", "o_proj"))


def plan_group(plan: Any) -> int:
    """The group size of the absorbed projection."""
    group: int = plan["model.layers.0.self_attn.k_b_proj"].group_size
    return group


def test_a_routers_bias_stays_exact_in_products_of_bfloat16() -> None:
    name = "model.layers.0.mlp.gate.e_score_correction_bias"
    values = torch.tensor([5.001, 5.002])
    weights = in_type({name: values, "other": values}, torch.bfloat16)
    assert torch.equal(weights[name], values)
    assert weights["other"].dtype == torch.bfloat16


def test_the_choice_is_by_scores_and_bias_and_the_weights_by_scores_alone() -> None:
    """Eight experts in four groups; the bias makes the last group the best one, and group 0 the second."""
    logits = torch.tensor([[[2.0, 1.0, -1.0, -1.0, 0.0, 0.0, -3.0, -4.0]]])
    bias = torch.tensor([0, 0, 0, 0, 0, 0, 3.0, 0])
    spec = Experts(8, 3, 32, "share", routing=Routing(groups=4, top_groups=2, factor=2.5))
    ExpertMlp(64, spec)
    ops = TorchOps({"m.gate.weight": torch.eye(8), "m.gate.e_score_correction_bias": bias})
    weights, chosen = ops.routed(logits, "m", spec)
    assert chosen.tolist() == [[[6, 0, 1]]]
    scores = torch.sigmoid(logits[0, 0, [6, 0, 1]])
    assert torch.allclose(weights[0, 0], 2.5 * scores / scores.sum())
