"""Compiled steps: every family's block is one graph, gradients are those of plain steps, and who decides says why."""

from __future__ import annotations

import math
import stat
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torch._inductor.config as inductor
from checkpoint_writer import write_checkpoint
from command_server import CommandServer
from random_model import CONFIGS, FIRST

from ovround.checkpoint import open_checkpoint
from ovround.conversion.convert import convert, prepare
from ovround.errors import EngineError, UsageError
from ovround.models import from_config
from ovround.models.decoder import Decoder
from ovround.models.torch_ops import TorchOps
from ovround.options.convert_options import ConvertOptions, QuantScheme
from ovround.quant.integers.initial_grid import from_extremes
from ovround.quant.integers.tuned_weight import LearnedScaleWeight
from ovround.quant.passes.compilation import differentiated
from ovround.quant.passes.compile_choice import choose, lacking
from ovround.quant.passes.signround import in_type

ONE_BILLION = {
    "model_type": "llama", "vocab_size": 32000, "hidden_size": 2048, "intermediate_size": 5632, "num_hidden_layers": 22,
    "num_attention_heads": 32, "num_key_value_heads": 4, "max_position_embeddings": 2048, "rms_norm_eps": 1e-5,
    "hidden_act": "silu", "tie_word_embeddings": False,
}  # fmt: skip
DENSE = [name for name in FIRST if from_config(CONFIGS[name]).config.experts is None]
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
        weights = {**values, **{f"{one.name}.weight": one.fake_quantized(dtype) for one in tuned}}
        return (decoder.block(TorchOps(in_type(weights, dtype)), x, layer).float() - target).square().mean()

    return tuned, loss


def taken(tuned: list[LearnedScaleWeight]) -> list[torch.Tensor]:
    """The gradients of all parameters, which forget them."""
    found = []
    for parameter in (parameter for one in tuned for parameter in one.parameters):
        assert parameter.grad is not None
        found.append(parameter.grad)
        parameter.grad = None
    return found


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*autograd.function.Function:DeprecationWarning")  # torch warns of how it looks
@pytest.mark.parametrize("name", DENSE)
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
    for one, other in zip(plain, taken(tuned), strict=True):
        assert one.abs().max() > 0
        assert (
            float((one - other).norm() / one.norm()) <= 5e-3
        )  # addcmul is a product and a sum there, each rounded to bfloat16


@pytest.mark.slow
@needs_compiler
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_compiled_gradients_are_those_of_plain_steps(dtype: torch.dtype) -> None:
    decoder = from_config(CONFIGS["llama-0"])
    tuned, loss = block_loss(decoder, 0, dtype)
    windows = torch.randn(2, 2, 16, decoder.config.hidden_size, generator=torch.Generator().manual_seed(4))
    found = []
    for compiles in (False, True):
        with differentiated(loss, compiles) as differentiate:
            differentiate(*windows)
            found.append(taken(tuned))
            differentiate(*windows)
            assert all(torch.equal(one, two) for one, two in zip(found[-1], taken(tuned), strict=True))
    tolerance = 1e-4 if dtype == torch.float32 else 0.02  # a sum in another order may be rounded to another bfloat16
    for plain, compiled in zip(*found, strict=True):
        assert float((plain - compiled).norm() / plain.norm()) <= tolerance


@pytest.mark.slow
@needs_compiler
def test_a_conversion_with_compiled_steps(tiny_source: Path, text_file: Path, tmp_path: Path) -> None:
    general = ConvertOptions(
        formats=("onnx",), group_size=32, iters=4, nsamples=8, seqlen=32, calibration=(text_file,), end_to_end=0
    )
    plain = convert(tiny_source, tmp_path / "plain", general).manifests[0]
    compiled = convert(tiny_source, tmp_path / "compiled", replace(general, compile="on")).manifests[0]
    assert (plain.options["compile"], compiled.options["compile"]) == ("off", "on")  # too little work for `auto`
    for one, other in zip(plain.blocks, compiled.blocks, strict=True):
        assert other.loss_after < other.loss_before
        assert math.isclose(one.loss_after, other.loss_after, rel_tol=0.05)
    again = convert(tiny_source, tmp_path / "again", replace(general, compile="on")).manifests[0]
    assert [one.sha256 for one in again.weights] == [one.sha256 for one in compiled.weights]


@pytest.fixture
def compiler(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A file that is found as the compiler; nobody calls it."""
    file = tmp_path / "a-compiler"
    file.write_text("#!/bin/sh\n")
    file.chmod(file.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("CXX", str(file))
    (tmp_path / "Python.h").touch()
    monkeypatch.setattr("sysconfig.get_path", lambda name: str(tmp_path))
    return file


def test_auto_compiles_long_work_where_a_compiler_is(compiler: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    large, small = from_config(ONE_BILLION), from_config(CONFIGS["llama-0"])
    options, tokens = ConvertOptions(), 8 * 256
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    assert choose(options, large, tokens) == "on"
    assert choose(options, small, tokens) == "off"  # a second of work
    assert choose(replace(options, iters=2), large, tokens) == "off"
    assert choose(options, large, 0) == "off"  # nothing is tuned
    assert choose(replace(options, formats=("aqlm",)), large, tokens) == "off"
    assert choose(replace(options, device="cuda"), large, tokens) == "off"  # not measured there
    assert choose(replace(options, compile="off"), large, tokens) == "off"
    assert choose(replace(options, compile="on"), small, tokens) == "on"
    monkeypatch.setenv("OMP_NUM_THREADS", "16")
    assert choose(options, large, tokens) == "off"  # 16 threads are done with it before it would be repaid
    assert choose(options, large, 8 * 2048) == "on"
    compiler.unlink()
    assert choose(options, large, 8 * 2048) == "off"


def test_on_is_refused_in_words_where_it_cannot_be(compiler: Path, tmp_path: Path) -> None:
    wanted, decoder = ConvertOptions(compile="on"), from_config(CONFIGS["llama-0"])
    with pytest.raises(UsageError, match="compile is on, yet nothing is tuned"):
        choose(wanted, decoder, 0)
    with pytest.raises(UsageError, match="compile is on, yet the model has experts"):
        choose(wanted, from_config(CONFIGS["mixtral-0"]), 256)
    with pytest.raises(UsageError, match="compile is on, which torch's own compiler cannot for hpu"):
        choose(replace(wanted, device="hpu"), decoder, 256)
    (tmp_path / "Python.h").unlink()
    with pytest.raises(EngineError, match=r"compile is on, which needs Python's header Python\.h") as caught:
        choose(wanted, decoder, 256)
    assert caught.value.hint == "install it, or --compile off"
    compiler.unlink()
    with pytest.raises(EngineError, match=r"compile is on, which needs a C\+\+ compiler \(`.*a-compiler`\)"):
        choose(wanted, decoder, 256)


def test_it_is_refused_before_anything_begins(tmp_path: Path, command: CommandServer) -> None:
    write_checkpoint(tmp_path / "model")
    model, out = str(tmp_path / "model"), str(tmp_path / "out")
    result = command("convert", model, out, "--recipe", "rtn", "--group-size", "32", "--compile", "on")
    assert (result.status, (tmp_path / "out").exists()) == (2, False)
    assert "compile is on, yet nothing is tuned" in result.stderr
    result = command("convert", model, out, "--compile", "perhaps")
    assert (result.status, (tmp_path / "out").exists()) == (2, False)
    assert "compile is `perhaps`; allowed: auto, on, off" in result.stderr.replace("\n", " ")
    assert prepare(model, Path(out), ConvertOptions(recipe="rtn", group_size=32)).options.compile == "off"
    assert open_checkpoint(Path(model)).config["model_type"] == "llama"


def test_what_torch_cannot_compile_is_told() -> None:
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
    assert "--compile off" in caught.value.hint
