"""A plan as a file: written and read, and what is refused; and which layers a budget may choose for."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from checkpoint_writer import tiny_config

from ovround.errors import UsageError
from ovround.models import from_config
from ovround.models.decoder import HEAD, Decoder
from ovround.options.convert_options import ConvertOptions
from ovround.options.layer_rule import LayerRule
from ovround.quant.plan import choosable, make_plan
from ovround.quant.plan_file import plan_as_json, plan_digest, read_plan, write_plan
from ovround.tensors.scheme import QuantScheme

RULES = (LayerRule("down_proj", bits=2, group_size=16, sym=False), LayerRule("layers.0.*o_proj", bits=16))
O_PROJ = "model.layers.0.self_attn.o_proj"


@pytest.fixture(params=[False, True], ids=["untied", "tied"])
def decoder(request: pytest.FixtureRequest) -> Decoder:
    return from_config(tiny_config(tie_word_embeddings=request.param))


def options(**changes: Any) -> ConvertOptions:
    return ConvertOptions(**{"group_size": 32, "layers": RULES, **changes})


def test_what_is_written_is_read(decoder: Decoder, tmp_path: Path) -> None:
    path = tmp_path / "plan.json"
    for head_bits in (8, 4):  # a tied head is in the plan when its grid is its own
        plan = make_plan(decoder, options(lm_head_bits=head_bits))
        write_plan(path, plan)
        assert read_plan(path, decoder) == plan
        assert list(read_plan(path, decoder)) == list(plan)
        assert (HEAD in plan) == (decoder.head_at == HEAD or head_bits == 4)
    assert json.loads(path.read_text())["modules"][O_PROJ] == {"bits": 16}


def test_the_files_order_means_nothing(decoder: Decoder, tmp_path: Path) -> None:
    plan = make_plan(decoder, options())
    document = plan_as_json(plan)
    document["modules"] = dict(reversed(document["modules"].items()))
    (tmp_path / "plan.json").write_text(json.dumps(document))
    read = read_plan(tmp_path / "plan.json", decoder)
    assert list(read) == list(plan)
    assert plan_digest(read) == plan_digest(plan) != plan_digest({**plan, O_PROJ: QuantScheme(4, 32, True)})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({O_PROJ: None}, f"does not name `{O_PROJ}`"),
        (
            {"model.layers.9.mlp.up_proj": {"bits": 16}},
            "names `model.layers.9.mlp.up_proj`, which the model does not have",
        ),
        ({O_PROJ: {"bits": 5, "group_size": 32, "sym": True}}, f'`{O_PROJ}` has the scheme {{"bits": 5, "group_size"'),
        ({O_PROJ: {"bits": 4, "group_size": 32}}, f"`{O_PROJ}` has the scheme"),
        ({O_PROJ: {"bits": 4, "group_size": 32, "sym": 1}}, f"`{O_PROJ}` has the scheme"),
        ({O_PROJ: {"bits": 4, "group_size": 32, "sym": True, "x": 1}}, f"`{O_PROJ}` has the scheme"),
        ({O_PROJ: {"bits": True, "group_size": 32, "sym": True}}, f"`{O_PROJ}` has the scheme"),
        ({O_PROJ: 4}, f"`{O_PROJ}` has the scheme 4"),
        (
            {O_PROJ: {"bits": 4, "group_size": 256, "sym": True}},
            f"group size 256 does not divide the 128 inputs of `{O_PROJ}`",
        ),
    ],
)
def test_a_plan_that_cannot_be_is_refused(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    decoder = from_config(tiny_config())
    document = plan_as_json(make_plan(decoder, options()))
    modules = {**document["modules"], **changes}
    document["modules"] = {name: entry for name, entry in modules.items() if entry is not None}
    (tmp_path / "plan.json").write_text(json.dumps(document))
    with pytest.raises(UsageError) as caught:
        read_plan(tmp_path / "plan.json", decoder)
    assert message in str(caught.value)


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"format_version": 2, "modules": {}}', "\udcff", "[" * 100_000])
def test_a_file_that_is_no_plan_is_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "plan.json"
    path.write_bytes(text.encode(errors="surrogateescape"))
    with pytest.raises(UsageError, match=r"plan\.json"):
        read_plan(path, from_config(tiny_config()))
    with pytest.raises(UsageError, match="does not exist"):
        read_plan(tmp_path / "nothing.json", from_config(tiny_config()))


def test_fused_layers_are_every_linear_layer_once(decoder: Decoder) -> None:
    for layer in range(2):
        groups = decoder.fused(layer)
        assert tuple(name for group in groups for name in group) == decoder.linears(layer)
        shorts = [tuple(name.rpartition(".")[2] for name in group) for group in groups]
        assert shorts == [("q_proj", "k_proj", "v_proj"), ("o_proj",), ("gate_proj", "up_proj"), ("down_proj",)]


def test_what_a_rule_states_the_bits_of_is_not_chosen_for(decoder: Decoder) -> None:
    rules = (LayerRule("layers.0.*k_proj", bits=8), LayerRule("up_proj", sym=False), LayerRule("1.*down_proj", bits=16))
    given = options(layers=rules)
    groups = choosable(decoder, make_plan(decoder, given), given)
    at = "model.layers"
    assert groups == (
        (f"{at}.0.self_attn.q_proj", f"{at}.0.self_attn.v_proj"), (f"{at}.0.self_attn.o_proj",),
        (f"{at}.0.mlp.gate_proj", f"{at}.0.mlp.up_proj"), (f"{at}.0.mlp.down_proj",),
        (f"{at}.1.self_attn.q_proj", f"{at}.1.self_attn.k_proj", f"{at}.1.self_attn.v_proj"),
        (f"{at}.1.self_attn.o_proj",), (f"{at}.1.mlp.gate_proj", f"{at}.1.mlp.up_proj"),
    )  # fmt: skip
