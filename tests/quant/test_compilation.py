"""Compiled steps: every family's block is one graph, gradients equal those of plain steps, and refusals give the reason."""

from __future__ import annotations

import math
import stat
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import torch._inductor.config as inductor
from checkpoint_writer import write_checkpoint
from command_server import CommandServer
from random_model import CONFIGS, FIRST
from tuning_file import tuning_file

from ovround.checkpoint import open_checkpoint
from ovround.conversion.convert import convert, prepare
from ovround.errors import EngineError, UsageError
from ovround.models import from_config
from ovround.models.decoder import Decoder
from ovround.models.torch_ops import TorchOps
from ovround.options.convert_options import ConvertOptions
from ovround.options.tuning_options import TuningOptions
from ovround.quant.integers.initial_grid import from_extremes
from ovround.quant.integers.tuned_weight import LearnedScaleWeight
from ovround.quant.passes.compilation import differentiated
from ovround.quant.passes.compile_choice import choose, lacking
from ovround.quant.product_dtype import in_type
from ovround.tensors.scheme import QuantScheme

ONE_BILLION = {
    "model_type": "llama", "vocab_size": 32000, "hidden_size": 2048, "intermediate_size": 5632, "num_hidden_layers": 22,
    "num_attention_heads": 32, "num_key_value_heads": 4, "max_position_embeddings": 2048, "rms_norm_eps": 1e-5,
    "hidden_act": "silu", "tie_word_embeddings": False,
}  # fmt: skip
DENSE = [name for name in FIRST if not from_config(CONFIGS[name]).largest_stack]
needs_compiler = pytest.mark.skipif(lacking() is not None, reason=f"compiling needs {lacking()}")

Loss = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]


def block_loss(decoder: Decoder, layer: int, dtype: torch.dtype) -> tuple[list[LearnedScaleWeight], Loss]:
    """A random block whose linear layers are tuned at 4 bits, and its error."""
    generator = torch.Generator().manual_seed(3)
    values = {
        name: torch.randn(shape, generator=generator) * 0.2 + (name.endswith("norm.weight") and len(shape) == 1)
        for name, shape in decoder.tensors(layer).items()
    }
    scheme = QuantScheme(4, -1, True)
    tuned = []
    for module in decoder.linears(layer):
        weight = values.pop(f"{module}.weight")
        tuned.append(LearnedScaleWeight(module, from_extremes(weight, scheme), weight.shape, scheme))

    def loss(x: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        weights = {**values, **{f"{weight.name}.weight": weight.fake_quantized(dtype) for weight in tuned}}
        return (decoder.block(TorchOps(in_type(weights, dtype)), x, layer).float() - target).square().mean()

    return tuned, loss


def taken(tuned: list[LearnedScaleWeight]) -> list[torch.Tensor]:
    """The gradients of all parameters, which are reset."""
    actual = []
    for parameter in (parameter for weight in tuned for parameter in weight.parameters):
        assert parameter.grad is not None
        actual.append(parameter.grad)
        parameter.grad = None
    return actual


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*autograd.function.Function:DeprecationWarning")  # a warning of torch itself
# A block of Gemma 3n or 4 also reads what the embedding leaves, which this loss does not give it (tests/test_shared_values.py).
@pytest.mark.parametrize("name", [name for name in DENSE if not name.startswith(("gemma3n", "gemma4_text"))])
def test_a_block_of_every_family_is_one_graph(name: str) -> None:
    decoder = from_config(CONFIGS[name])
    tuned, loss = block_loss(decoder, 0, torch.bfloat16)
    windows = torch.randn(2, 2, 16, decoder.config.hidden_size, generator=torch.Generator().manual_seed(4))
    try:
        loss(*windows).backward()
        plain = taken(tuned)
        torch.compile(loss, fullgraph=True, dynamic=False, backend="eager")(*windows).backward()
    finally:
        torch.compiler.reset()
    for gradient, other in zip(plain, taken(tuned), strict=True):
        assert gradient.abs().max() > 0
        assert (
            float((gradient - other).norm() / gradient.norm()) <= 5e-3
        )  # addcmul is a product and a sum there, each rounded to bfloat16


@pytest.mark.slow
@needs_compiler
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_compiled_gradients_are_those_of_plain_steps(dtype: torch.dtype) -> None:
    decoder = from_config(CONFIGS["llama-0"])
    tuned, loss = block_loss(decoder, 0, dtype)
    windows = torch.randn(2, 2, 16, decoder.config.hidden_size, generator=torch.Generator().manual_seed(4))
    actual = []
    for compiles in (False, True):
        with differentiated(loss, compiles) as differentiate:
            differentiate(*windows)
            actual.append(taken(tuned))
            differentiate(*windows)
            assert all(torch.equal(first, second) for first, second in zip(actual[-1], taken(tuned), strict=True))
    tolerance = 1e-4 if dtype == torch.float32 else 0.02  # a sum in another order may be rounded to another bfloat16
    for plain, compiled in zip(*actual, strict=True):
        assert float((plain - compiled).norm() / plain.norm()) <= tolerance


@pytest.mark.slow
@needs_compiler
def test_a_conversion_with_compiled_steps(tiny_source: Path, text_file: Path, tmp_path: Path) -> None:
    general = ConvertOptions(
        formats=("onnx",),
        group_size=32,
        iters=4,
        nsamples=8,
        seqlen=32,
        calibration=(text_file,),
        tuning=TuningOptions(end_to_end_steps=0),
    )
    with_compiler = replace(general, tuning=replace(general.tuning, compile="on"))
    plain = convert(tiny_source, tmp_path / "plain", general).manifests[0]
    compiled = convert(tiny_source, tmp_path / "compiled", with_compiler).manifests[0]
    assert (plain.compiled, compiled.compiled) == (False, True)  # too little work for `auto`
    for block, other in zip(plain.blocks, compiled.blocks, strict=True):
        assert other.loss_after <= other.loss_before  # so few steps need not lower it
        assert math.isclose(block.loss_before, other.loss_before, rel_tol=0.05)
        assert math.isclose(block.loss_after, other.loss_after, rel_tol=0.05)
    again = convert(tiny_source, tmp_path / "again", with_compiler).manifests[0]
    assert [weight.sha256 for weight in again.weights] == [weight.sha256 for weight in compiled.weights]


@pytest.fixture
def compiler(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A file that is taken for the compiler; nothing calls it."""
    file = tmp_path / "a-compiler"
    file.write_text("#!/bin/sh\n")
    file.chmod(file.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("CXX", str(file))
    (tmp_path / "Python.h").touch()
    monkeypatch.setattr("sysconfig.get_path", lambda name: str(tmp_path))
    return file


def test_auto_compiles_long_work_where_a_compiler_is(compiler: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    large, small = from_config(ONE_BILLION), from_config(CONFIGS["llama-0"])
    tokens = 8 * 256

    def compiles(decoder: Decoder, tokens: int, wanted: str = "auto", **changes: Any) -> bool:
        return choose(
            **{"wanted": wanted, "device": "cpu", "iters": 200, "integers": True, **changes},
            decoder=decoder,
            tokens=tokens,
        )

    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    assert compiles(large, tokens)
    assert not compiles(small, tokens)  # a second of work
    assert not compiles(large, tokens, iters=2)
    assert not compiles(large, 0)  # nothing is tuned
    assert not compiles(large, tokens, integers=False)
    assert not compiles(large, tokens, device="cuda")  # not measured there
    assert not compiles(large, tokens, "off")
    assert compiles(small, tokens, "on")
    monkeypatch.setenv("OMP_NUM_THREADS", "16")
    assert not compiles(large, tokens)  # 16 threads are done with it before it would be repaid
    assert compiles(large, 8 * 2048)
    compiler.unlink()
    assert not compiles(large, 8 * 2048)


def test_on_is_refused_in_words_where_it_cannot_be(compiler: Path, tmp_path: Path) -> None:
    def wanted(decoder: Decoder, tokens: int, device: str = "cpu") -> bool:
        return choose("on", device, decoder, tokens, 200, integers=True)

    decoder = from_config(CONFIGS["llama-0"])
    with pytest.raises(UsageError, match="compile is on, yet nothing is tuned"):
        wanted(decoder, 0)
    with pytest.raises(UsageError, match="compile is on, yet the model has experts"):
        wanted(from_config(CONFIGS["mixtral-0"]), 256)
    with pytest.raises(UsageError, match="compile is on, which torch's own compiler cannot for hpu"):
        wanted(decoder, 256, "hpu")
    (tmp_path / "Python.h").unlink()
    with pytest.raises(EngineError, match=r"compile is on, which needs Python's header Python\.h") as caught:
        wanted(decoder, 256)
    assert caught.value.hint == 'install it, or `compile = "off"` in the file of --tuning'
    compiler.unlink()
    with pytest.raises(EngineError, match=r"compile is on, which needs a C\+\+ compiler \(`.*a-compiler`\)"):
        wanted(decoder, 256)


def test_it_is_refused_before_anything_begins(tmp_path: Path, command: CommandServer) -> None:
    write_checkpoint(tmp_path / "model")
    model, out = str(tmp_path / "model"), str(tmp_path / "out")
    result = command(
        "convert", model, out, "--recipe", "rtn", "--group-size", "32", "--tuning", tuning_file(tmp_path, compile="on")
    )
    assert (result.status, (tmp_path / "out").exists()) == (2, False)
    assert "compile is on, yet nothing is tuned" in result.stderr
    result = command("convert", model, out, "--tuning", tuning_file(tmp_path, compile="perhaps"))
    assert (result.status, (tmp_path / "out").exists()) == (2, False)
    assert "compile is `perhaps`; allowed: auto, on, off" in result.stderr.replace("\n", " ")
    assert prepare(model, Path(out), ConvertOptions(recipe="rtn", group_size=32)).settings.compile is False
    assert open_checkpoint(Path(model)).config["model_type"] == "llama"


def test_what_torch_cannot_compile_is_reported() -> None:
    weight = torch.ones(2, requires_grad=True)

    def loss(x: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        return (weight * x - target).square().sum()

    # torch's own patch: pytest's cannot put back a setting that torch keeps under a second name.
    settings = {"cpp.cxx": ("/nowhere/a-compiler",), "force_disable_caches": True}
    with inductor.patch(settings), pytest.MonkeyPatch.context() as patch, differentiated(loss, True) as differentiate:
        patch.setenv("CXX", "/nowhere/a-compiler")
        with pytest.raises(EngineError, match="torch could not compile a tuning step: ") as caught:
            differentiate(torch.ones(2), torch.zeros(2))
    assert caught.value.hint is not None
    assert 'compile = "off"' in caught.value.hint
