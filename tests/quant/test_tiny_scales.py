"""Weights whose scales float16 holds badly or not at all: float16 down to its smallest number, float32 where a format has it."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from checkpoint_writer import Arrays, random_weights, tiny_config, write_checkpoint
from converted_weights import as_torch, read_weights
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from quantised_folder import MODULE, quantised_folder, rewrite

from ovround.artifact.manifest import ENGINE_FORMATS, Manifest
from ovround.conversion.convert import convert
from ovround.conversion.precision import allowed_error, precision_notes
from ovround.errors import TensorError
from ovround.exporters.exporter import record_of
from ovround.models import from_config
from ovround.models.torch_ops import TorchOps
from ovround.options.convert_options import ConvertOptions
from ovround.quant.integers.levels import to_float16
from ovround.quant.integers.rtn import round_to_nearest
from ovround.runtime.engines import open_engine
from ovround.tensors.float_tensor import FloatTensor
from ovround.tensors.qtensor import QTensor, narrowest
from ovround.tensors.scheme import QuantScheme

TOLERANCE = 1e-5  # float32 sums in another order, as in test_formats
IDS = np.random.default_rng(2).integers(3, 300, (2, 9))
SCHEMES = [QuantScheme(bits, 32, symmetric) for bits in (2, 4, 8) for symmetric in (True, False)]


def errors(exponent: int, scheme: QuantScheme) -> tuple[float, float]:
    """The relative errors of a weight times 2^exponent in float16 scales alone, and with float32 ones allowed."""
    weight = np.random.default_rng(3).standard_normal((16, 64)).astype(np.float32) * np.float32(2.0**exponent)
    tensor = FloatTensor(weight, "float32")
    narrow, narrow_error = round_to_nearest("w", tensor, scheme)
    wide, wide_error = round_to_nearest("w", tensor, scheme, wide_scales=True)
    assert narrow.scales.dtype == np.float16
    for rounded, error in ((narrow, narrow_error), (wide, wide_error)):
        real = np.linalg.norm(rounded.dequantize().astype(np.float64) - weight) / np.linalg.norm(
            weight.astype(np.float64)
        )
        assert error == pytest.approx(real, rel=1e-5)
    return narrow_error, wide_error


@pytest.mark.parametrize("scheme", SCHEMES)
def test_the_error_does_not_depend_on_the_size_of_the_weights(scheme: QuantScheme) -> None:
    usual = errors(0, scheme)[0]
    for exponent in (-4, -8, -10):
        assert errors(exponent, scheme)[0] == pytest.approx(usual, rel=0.06 if scheme.bits < 8 else 0.15)
    for exponent in (-12, -16, -20, -40, -80):
        assert errors(exponent, scheme)[1] == pytest.approx(usual, rel=0.15)


@settings(deadline=None, max_examples=300)
@given(st.floats(2.0**-24, 60000, allow_subnormal=False), st.booleans())
def test_float16_scales_are_nearest_or_just_above(scale: float, negative: bool) -> None:
    signed = np.float32(-scale if negative else scale)
    kept = float(to_float16(torch.tensor(signed)))
    assert kept == float(np.float16(kept))
    assert abs(kept - signed) <= max(2.0**-24, abs(float(signed)) * 2.0**-11)
    if scale < 2.0**-14:
        assert abs(kept) >= abs(float(signed))


def test_a_dead_row_leaves_scales_in_float16() -> None:
    weight = np.random.default_rng(3).standard_normal((16, 64)).astype(np.float32)
    weight[5] *= np.float32(1e-12)
    weight[6] = 0
    rounded, error = round_to_nearest("w", FloatTensor(weight, "float32"), QuantScheme(8, 32, True), wide_scales=True)
    assert rounded.scales.dtype == np.float16
    assert error < 0.01
    assert not rounded.dequantize()[6].any()


def test_huge_weights_are_named_where_no_scale_holds_them() -> None:
    weight = FloatTensor(np.full((4, 32), 1e8, np.float32), "float32")
    with pytest.raises(TensorError, match="`up_proj` has values so large that a float16 scale overflows"):
        round_to_nearest("up_proj", weight, QuantScheme(4, 32, True))
    rounded, error = round_to_nearest("up_proj", weight, QuantScheme(4, 32, True), wide_scales=True)
    assert (rounded.scale_bits, error) == (32, 0.0)


def test_narrowing_never_makes_a_scale_zero() -> None:
    codes = np.arange(64, dtype=np.uint8).reshape(2, 32) % 16
    tensor = QTensor(codes, np.array([[1e-9], [-3e-8]], np.float32), None, 4)
    assert tensor.with_float16_scales().scales.tolist() == [[2.0**-24], [-(2.0**-24)]]
    assert narrowest(np.array([[0.5]], np.float32)).dtype == np.float16
    assert narrowest(np.array([[1e5]], np.float32)).dtype == np.float32
    with pytest.raises(ValueError, match="a scale of 100000 is beyond float16"):
        QTensor(codes, np.array([[1e5], [1]], np.float32), None, 4).with_float16_scales()
    assert record_of("w", tensor).scale_bits == 32
    assert tensor.digest() != tensor.with_float16_scales().digest()


# Whole models


def tiny_values(power: int) -> Arrays:
    """v_proj times 2^-power and o_proj times 2^power: the same function, but for the rounding."""
    weights = random_weights(tiny_config())
    for name in weights:
        if "v_proj" in name:
            weights[name] = weights[name] * np.float32(2.0**-power)
        if "o_proj.weight" in name:
            weights[name] = weights[name] * np.float32(2.0**power)
    return weights


def reference(weights: Arrays) -> NDArray[np.float32]:
    decoder = from_config(tiny_config())
    ops = TorchOps({name: torch.from_numpy(np.ascontiguousarray(value)) for name, value in weights.items()})
    with torch.no_grad():
        logits: NDArray[np.float32] = decoder.logits(ops, torch.from_numpy(IDS)).numpy()
    return logits


def distance(actual: NDArray[Any], expected: NDArray[Any]) -> float:
    return float(np.abs(actual - expected).max() / np.abs(expected).max())


def computed(folder: Path) -> NDArray[np.float32]:
    engine = open_engine(folder, exact=True, threads=1)
    logits = engine.logits(IDS)
    engine.close()
    return logits


def wide_names(manifest: Manifest) -> set[str]:
    return {record.name.split(".")[-2] for record in manifest.weights if record.scale_bits == 32}


@pytest.mark.parametrize(("sym", "power", "wide"), [(True, 20, {"v_proj"}), (False, 26, {"v_proj", "o_proj"})])
def test_a_model_of_tiny_values_is_as_good_as_the_same_of_usual_ones(
    tmp_path: Path, sym: bool, power: int, wide: set[str]
) -> None:
    options = ConvertOptions(formats=ENGINE_FORMATS, bits=8, group_size=32, recipe="rtn", sym=sym)
    source = write_checkpoint(tmp_path / "tiny", weights=tiny_values(power))
    made = convert(source, tmp_path / "out", options)
    assert wide_names(made.manifests[0]) == wide
    assert not any("warning" in note for note in made.manifests[0].notes)
    for folder in made.folders:
        stored = as_torch(read_weights(folder))
        assert (
            distance(computed(folder), reference({name: np.asarray(value) for name, value in stored.items()}))
            < TOLERANCE
        )
        assert distance(computed(folder), reference(tiny_values(0))) < 0.05


def test_a_format_of_float16_scales_gets_them_and_a_warning(tmp_path: Path) -> None:
    source = write_checkpoint(tmp_path / "tiny", weights=tiny_values(20))
    options = ConvertOptions(formats=("gptq",), bits=8, group_size=32, recipe="rtn")
    manifest = convert(source, tmp_path / "out", options).manifests[0]
    assert wide_names(manifest) == set()
    (note,) = [note for note in manifest.notes if "warning" in note]
    assert "2 weight(s) lose more than their bits explain" in note
    assert "v_proj.weight`" in note


def test_notes_of_precision_name_the_worst() -> None:
    record = record_of("w", QTensor(np.zeros((1, 32), np.uint8), np.ones((1, 1), np.float16), None, 8), 0.2)
    assert "`w` 0.200 at 8 bits" in precision_notes([record])[0]
    assert precision_notes([replace(record, relative_error=allowed_error(8))]) == ()


# Scales of others


@pytest.mark.parametrize("bits", [0x3301, 0x47C3])  # 3.0e-8 and 99840 in bfloat16
def test_one_scale_beyond_float16_does_not_refuse_a_file(tmp_path: Path, bits: int) -> None:
    def spoil(data: NDArray[Any]) -> NDArray[np.uint16]:
        changed = (data.astype(np.float32).view(np.uint32) >> 16).astype(np.uint16)
        changed[0, 3] = bits
        return changed

    folder = quantised_folder(tmp_path, {})
    rewrite(folder, f"{MODULE}.scales", spoil, "bfloat16")
    made = convert(folder, tmp_path / "out", ConvertOptions(formats=(*ENGINE_FORMATS, "compressed-tensors", "olive")))
    wide = [record.name for record in made.manifests[0].weights if record.scale_bits == 32]
    assert wide == [f"{MODULE}.weight"]
    for engine_folder in made.folders[:2]:
        stored = {name: np.asarray(value) for name, value in as_torch(read_weights(engine_folder)).items()}
        assert distance(computed(engine_folder), reference(stored)) < TOLERANCE
    again = convert(made.folders[2], tmp_path / "again", ConvertOptions(formats=("onnx",)))
    digests = [
        {record.name: record.sha256 for record in manifest.weights}
        for manifest in (made.manifests[0], again.manifests[0])
    ]
    assert digests[0] == digests[1]


def test_a_format_of_float16_scales_rounds_small_ones_and_refuses_large_ones(tmp_path: Path) -> None:
    folder = quantised_folder(tmp_path, {})
    for bits, out in ((0x3301, "small"), (0x47C3, "large")):
        copy = shutil.copytree(folder, tmp_path / out)

        def spoil(data: NDArray[Any], bits: int = bits) -> NDArray[np.uint16]:
            changed = (data.astype(np.float32).view(np.uint32) >> 16).astype(np.uint16)
            changed[0, 3] = bits
            return changed

        rewrite(copy, f"{MODULE}.scales", spoil, "bfloat16")
        options = ConvertOptions(formats=("auto_round",))
        if out == "large":
            with pytest.raises(TensorError, match=rf"`{MODULE}\.weight`: a scale of 99840 is beyond float16"):
                convert(copy, tmp_path / "a", options)
            continue
        manifest = convert(copy, tmp_path / "b", options).manifests[0]
        rounded = {record.name: record.relative_error for record in manifest.weights if record.relative_error}
        assert list(rounded) == [f"{MODULE}.weight"]
        assert rounded[f"{MODULE}.weight"] < 1e-5
        stated = json.loads((tmp_path / "b" / "ovround.json").read_text())["weights"]
        assert {weight["scale_bits"] for weight in stated} == {16}
