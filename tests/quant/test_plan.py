"""The scheme of each weight: rules in order, tied heads, refused values, and the options that state it."""

from __future__ import annotations

from typing import Any

import pytest
from checkpoint_writer import tiny_config

from ovround.artifact.manifest import FORMATS
from ovround.errors import UsageError
from ovround.models import from_config
from ovround.models.decoder import EMBEDDING, HEAD, Decoder
from ovround.options.convert_options import ConvertOptions, resolved_recipe
from ovround.options.layer_rule import LayerRule
from ovround.options.recipes import RECIPES
from ovround.options.tuning_options import TuningOptions
from ovround.quant.plan import Plan, make_plan
from ovround.tensors.scheme import QuantScheme

PROJECTIONS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")


def decoder(**config: object) -> Decoder:
    return from_config(tiny_config(**config))


def plan(*rules: str, tied: bool = False, **options: Any) -> Plan:
    layers = tuple(LayerRule.parse(rule) for rule in rules)
    return make_plan(decoder(tie_word_embeddings=tied), ConvertOptions(layers=layers, **{"group_size": 32, **options}))


def refusal(call: object, *arguments: Any, **options: Any) -> tuple[str, str | None]:
    assert callable(call)
    with pytest.raises(UsageError) as caught:
        call(*arguments, **options)
    return str(caught.value), caught.value.hint


def test_blocks_get_the_general_options_and_both_ends_eight_bits() -> None:
    schemes = plan(bits=3, sym=False)
    names = list(schemes)
    assert (names[0], names[-1], len(names)) == (EMBEDDING, HEAD, 16)
    assert [name.rpartition(".")[2] for name in names[1:8]] == list(PROJECTIONS)
    assert set(schemes.values()) == {QuantScheme(3, 32, False), QuantScheme(8, 32, False)}
    assert schemes[EMBEDDING] == schemes[HEAD] == QuantScheme(8, 32, False)


def test_sixteen_bits_leave_everything_in_float() -> None:
    assert set(plan(bits=16).values()) == {None}
    assert plan(bits=16, lm_head_bits=4)[HEAD] == QuantScheme(4, 32, True)


def test_the_ends_have_options_of_their_own() -> None:
    schemes = plan(lm_head_bits=16, embedding_bits=2)
    assert (schemes[HEAD], schemes[EMBEDDING]) == (None, QuantScheme(2, 32, True))


def test_a_rule_changes_what_it_names_and_nothing_else() -> None:
    schemes = plan("down_proj=bits:8,group_size:16,sym:false")
    for name, scheme in schemes.items():
        if name.endswith("down_proj"):
            assert scheme == QuantScheme(8, 16, False)
        elif name not in (EMBEDDING, HEAD):
            assert scheme == QuantScheme(4, 32, True)


def test_rules_are_searched_for_and_the_last_match_wins_setting_by_setting() -> None:
    schemes = plan(r"layers\.1\.=bits:8,group_size:16", "o_proj=sym:false", r"1\.self_attn\.o_proj$=bits:2")
    assert schemes["model.layers.0.self_attn.o_proj"] == QuantScheme(4, 32, False)
    assert schemes["model.layers.1.self_attn.o_proj"] == QuantScheme(2, 16, False)
    assert schemes["model.layers.1.mlp.up_proj"] == QuantScheme(8, 16, True)
    assert schemes["model.layers.0.mlp.up_proj"] == QuantScheme(4, 32, True)


def test_sixteen_bits_in_a_rule_mean_float_and_a_later_rule_takes_it_back() -> None:
    assert plan("v_proj=bits:16")["model.layers.0.self_attn.v_proj"] is None
    schemes = plan("v_proj=bits:16", r"1.*v_proj=bits:4")
    assert schemes["model.layers.0.self_attn.v_proj"] is None
    assert schemes["model.layers.1.self_attn.v_proj"] == QuantScheme(4, 32, True)


def test_a_rule_that_matches_nothing_is_refused() -> None:
    message, hint = refusal(plan, "down_proj=bits:8", r"layers\.7\.=bits:8")
    assert message == r"layer rule `layers\.7\.` matches no module"
    assert hint == f"modules are named like `{EMBEDDING}`"


def test_a_tied_head_on_the_embeddings_grid_is_the_embedding() -> None:
    assert HEAD not in plan(tied=True)
    assert HEAD not in plan(tied=True, lm_head_bits=4, embedding_bits=4)
    assert HEAD not in plan(tied=True, bits=16)


@pytest.mark.parametrize(
    ("rules", "options", "head"),
    [
        ((), {"lm_head_bits": 4}, QuantScheme(4, 32, True)),
        ((), {"embedding_bits": 16}, QuantScheme(8, 32, True)),
        ((), {"lm_head_bits": 16}, None),
        (("lm_head=group_size:64",), {}, QuantScheme(8, 64, True)),
        (("embed_tokens=sym:false",), {}, QuantScheme(8, 32, True)),
    ],
)
def test_a_tied_head_on_another_grid_is_a_weight_of_its_own(
    rules: tuple[str, ...], options: dict[str, Any], head: QuantScheme | None
) -> None:
    schemes = plan(*rules, tied=True, **options)
    assert schemes[HEAD] == head
    assert schemes[HEAD] != schemes[EMBEDDING]


def test_a_rule_for_a_tied_head_that_changes_nothing_is_no_error() -> None:
    assert HEAD not in plan("lm_head=bits:8", tied=True)


def test_a_group_size_that_does_not_divide_is_refused_with_one_that_does() -> None:
    message, hint = refusal(plan, group_size=64)
    assert message == "group size 64 does not divide the 96 inputs of `model.layers.0.mlp.down_proj`"
    assert hint == "--group-size 32 divides it, or --layer 'down_proj=group_size:-1' gives each of its rows one scale"
    assert plan("down_proj=group_size:-1", group_size=64)["model.layers.1.mlp.down_proj"] == QuantScheme(4, -1, True)
    assert plan("down_proj=bits:16", group_size=64)["model.layers.1.mlp.down_proj"] is None


def test_no_group_size_is_suggested_where_none_divides() -> None:
    layers = (LayerRule("gate_proj|up_proj", group_size=16),)
    odd = decoder(intermediate_size=172)
    message, hint = refusal(make_plan, odd, ConvertOptions(group_size=32, layers=layers))
    assert message == "group size 32 does not divide the 172 inputs of `model.layers.0.mlp.down_proj`"
    assert hint == "--layer 'down_proj=group_size:-1' gives each of its rows one scale"


def test_a_tied_heads_group_size_is_checked_too() -> None:
    message, _ = refusal(plan, "lm_head=group_size:128", tied=True)
    assert message == "group size 128 does not divide the 64 inputs of `lm_head`"


@pytest.mark.parametrize(
    ("text", "rule"),
    [
        ("down_proj=bits:8", LayerRule("down_proj", bits=8)),
        ("a=b=bits:2,sym:true", LayerRule("a=b", bits=2, sym=True)),
        (".*=group_size:-1,sym:false,bits:16", LayerRule(".*", 16, -1, False)),
    ],
)
def test_rules_are_read(text: str, rule: LayerRule) -> None:
    assert LayerRule.parse(text) == rule


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("down_proj", "layer rule `down_proj` is not REGEX=key:value"),
        ("=bits:8", "layer rule `=bits:8` is not REGEX=key:value"),
        ("down_proj=", "layer rule `down_proj=` is not REGEX=key:value"),
        ("x=bits", "layer rule `x=bits`: `` is no value for bits"),
        ("x=bits:many", "layer rule `x=bits:many`: `many` is no value for bits"),
        ("x=sym:yes", "layer rule `x=sym:yes`: `yes` is no value for sym"),
        ("x=width:8", "layer rule `x=width:8`: unknown key `width`"),
        ("x=bits:5", "bits is `5`; allowed: 2, 3, 4, 8, 16"),
        ("x=group_size:48", "group_size is `48`; allowed: 16, 32, 64, 128, 256, -1"),
        ("(=bits:4", "layer rule: `(` is no regular expression: missing ), unterminated subpattern at position 0"),
    ],
)
def test_rules_that_cannot_be_are_refused(text: str, message: str) -> None:
    assert refusal(LayerRule.parse, text)[0] == message


def test_rules_made_in_python_are_checked_as_well() -> None:
    assert refusal(LayerRule, "x", bits=5)[0] == "bits is `5`; allowed: 2, 3, 4, 8, 16"
    assert refusal(LayerRule, "[")[0].startswith("layer rule: `[` is no regular expression")


@pytest.mark.parametrize(
    ("options", "message", "hint"),
    [
        ({"bits": 5}, "bits is `5`; allowed: 2, 3, 4, 8, 16", None),
        ({"group_size": 100}, "group-size is `100`; allowed: 16, 32, 64, 128, 256, -1", None),
        ({"formats": ("onx",)}, f"format is `onx`; allowed: {', '.join(FORMATS)}", "did you mean `onnx`?"),
        ({"formats": ()}, "no format was given", f"formats: {', '.join(FORMATS)}"),
        ({"formats": ("onnx", "onnx")}, "format onnx, onnx: one is named twice", None),
        ({"recipe": "defalt"}, f"recipe is `defalt`; allowed: {', '.join(RECIPES)}", "did you mean `default`?"),
        ({"iters": -1}, "iters is -1; 0 to 100000 is allowed", None),
        ({"nsamples": 0}, "nsamples is 0; 1 to 1000000 is allowed", None),
        ({"seqlen": 7}, "seqlen is 7; 8 to 1000000 is allowed", None),
        ({"seed": -1}, "seed is -1; 0 to 9223372036854775807 is allowed", None),
        ({"lm_head_bits": 6}, "lm-head-bits is `6`; allowed: 2, 3, 4, 8, 16", None),
        ({"embedding_bits": 1}, "embedding-bits is `1`; allowed: 2, 3, 4, 8, 16", None),
        ({"recipe": "rtn", "iters": 9}, "recipe rtn does not tune, yet iters is 9", "leave out one of the two"),
    ],
)
def test_options_that_cannot_be_are_refused(options: dict[str, Any], message: str, hint: str | None) -> None:
    assert refusal(ConvertOptions, **options) == (message, hint)


def recipe_of(**changes: Any) -> tuple[int, int, int]:
    """Steps a block, samples and samples a step."""
    recipe = resolved_recipe(ConvertOptions(**changes))
    return recipe.iters, recipe.nsamples, recipe.batch_size


def test_recipes_say_what_is_not_given() -> None:
    assert recipe_of() == (200, 128, 4)
    assert recipe_of(recipe="light") == (50, 128, 8)
    assert recipe_of(recipe="best") == (1000, 512, 8)
    assert recipe_of(iters=7, nsamples=9) == (7, 9, 4)
    assert recipe_of(recipe="light", pv=True) == (50, 128, 8)
    assert recipe_of(pv=True) == recipe_of(formats=("aqlm",)) == (200, 128, 8)
    assert recipe_of(formats=("aqlm",), tuning=TuningOptions(batch_size=2)) == (200, 128, 2)
    assert [ConvertOptions(**given).tunes for given in ({}, {"iters": 0}, {"recipe": "rtn"})] == [True, False, False]  # type: ignore[arg-type]
