"""The HPU engine, emulated on the CPU: the tokens of other engines, fixed shapes, no second compilation, weights at rest."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from safetensors.numpy import save_file

import ovround
from ovround.conversion.convert import convert
from ovround.errors import EngineError, GenerationError, UsageError
from ovround.models import families, from_config, smallest_configs
from ovround.models.calls import ropes
from ovround.models.torch_ops import TorchOps
from ovround.options.convert_options import ConvertOptions
from ovround.runtime import LLM
from ovround.runtime.engines import open_engine
from ovround.runtime.engines.hpu import HpuEngine
from ovround.runtime.hpu import buckets, device, operator
from ovround.runtime.hpu.cache import Cache
from ovround.runtime.hpu.step import Step
from ovround.runtime.hpu.weights import Packer
from ovround.tensors.qtensor import QTensor

EMULATED = "hpu-emulated"
TOLERANCE = 1e-4  # logits of size 10 in float32, summed in another order: 1e-5 measured
Reference = Callable[[list[int]], NDArray[np.float32]]
PROMPTS = [[1], [1, 30, 40, 50, 60, 70, 80], [9] * 20 + [8] * 13]
CONFIGS = [(family, number) for family in families() for number in range(len(smallest_configs(family)))]


@pytest.fixture(scope="module")
def checkpoint(tiny: tuple[Path, dict[str, NDArray[np.float32]]], tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("hpu") / "checkpoint"
    shutil.copytree(tiny[0], folder)
    save_file(tiny[1], folder / "model.safetensors")
    return folder


@pytest.fixture(scope="module")
def engine(checkpoint: Path) -> HpuEngine:
    return HpuEngine(checkpoint, EMULATED, exact=True)


def close(ours: NDArray[np.float32], theirs: Any) -> bool:
    return ours.dtype == np.float32 and bool(np.abs(ours - np.asarray(theirs)).max() < TOLERANCE)


def test_a_ragged_batch_step_by_step(engine: HpuEngine, reference: Reference) -> None:
    engine.reset()
    rows = [list(prompt) for prompt in PROMPTS]
    logits = engine.prefill(rows)
    for _ in range(4):
        assert close(logits, [reference(row)[-1] for row in rows])
        for row, best in zip(rows, logits.argmax(axis=1), strict=True):
            row.append(int(best))
        logits = engine.decode([row[-1] for row in rows])
    engine.keep([2, 2, 0])  # a row may leave, move, and be there twice
    rows = [[*rows[2], 5], [*rows[2], 6], [*rows[0], 7]]
    assert close(engine.decode([5, 6, 7]), [reference(row)[-1] for row in rows])


def test_a_prompt_of_several_pieces_and_a_larger_room(engine: HpuEngine, reference: Reference) -> None:
    ids = np.random.default_rng(4).integers(0, 320, 300).tolist()
    engine.reset()
    assert close(engine.prefill([ids, [1, 2]]), [reference(ids)[-1], reference([1, 2])[-1]])
    engine.rewind([250, 1])
    assert close(engine.extend([[3, 4], [5, 6]]), [reference([*ids[:250], 3, 4])[-2:], reference([1, 5, 6])[-2:]])
    assert close(engine.logits(np.array([ids[:20]])), [reference(ids[:20])])
    assert close(engine.decode([7, 8]), [reference([*ids[:250], 3, 4, 7])[-1], reference([1, 5, 6, 8])[-1]])


def test_greedy_tokens_are_those_of_the_host(engine: HpuEngine) -> None:
    engine.reset()
    row = [1, 30, 40]
    row.append(int(engine.prefill([row])[0].argmax()))
    chosen = engine.decode_greedy(row[-1:], 6)[0].tolist()
    for token in chosen[:-1]:
        row.append(token)
    engine.reset()
    assert int(engine.prefill([row])[0].argmax()) == chosen[-1]


def test_refusals(engine: HpuEngine) -> None:
    engine.reset()
    with pytest.raises(GenerationError, match="641 tokens are more"):
        engine.prefill([[1] * 641])
    with pytest.raises(GenerationError, match="no tokens"):
        engine.prefill([[]])
    with pytest.raises(UsageError, match="warm-up for 1 rows of 641"):
        engine.warm_up(1, 641)


def test_nothing_is_compiled_after_the_warm_up(checkpoint: Path) -> None:
    engine = HpuEngine(checkpoint, EMULATED, exact=True)
    for rows in (2, 1):
        engine.warm_up(rows, 8)
    compiled = engine.compilations()
    assert compiled
    for length in (1, 3, 7):
        engine.reset()
        engine.prefill([[5] * length, [6]])
        engine.decode([1, 2])
        engine.keep([0])
        engine.decode_greedy([3], 4)
        engine.rewind([length])
        engine.extend([[4, 5]])
    assert engine.compilations() == compiled


def test_a_graph_that_is_compiled_again_is_an_error() -> None:
    call = device.ByShape("eager")
    assert call("key", _double, torch.ones(2)).tolist() == [2, 2]
    assert call("other", _double, torch.ones(3)).tolist() == [2, 2, 2]
    with pytest.raises(Exception, match="compiled again"):
        call("key", _double, torch.ones(3))


def _double(x: torch.Tensor) -> torch.Tensor:
    return 2 * x


def test_the_whole_step_is_one_graph(checkpoint: Path) -> None:
    engine = HpuEngine(checkpoint, EMULATED, exact=True)
    step, cache = engine._step, Cache(engine._states, torch.float32, "cpu")
    assert step is not None
    step.call = lambda key, function, *arguments: function(*arguments)
    cache.clear(1, 256)
    step.show(cache)
    held, index = torch.zeros(1, dtype=torch.int32), torch.zeros(1, dtype=torch.int64)
    arguments = (held[:, None], held, index, held[0] + 1, torch.zeros(256, dtype=torch.int8), False)
    whole = torch.compile(step, backend="aot_eager", fullgraph=True, dynamic=False)
    with torch.no_grad():
        assert torch.equal(whole(*arguments), step(*arguments))


@pytest.mark.parametrize(("family", "number"), CONFIGS, ids=[f"{family}-{number}" for family, number in CONFIGS])
def test_every_family_in_fixed_shapes(family: str, number: int) -> None:
    """A prompt in a padded batch after a cache of rubbish, then a step, against torch on the plain sequence."""
    decoder = from_config(smallest_configs(family)[number])
    torch.manual_seed(0)
    weights = {
        name: torch.randn(shape) * 0.2 + (1.0 if "norm" in name else 0.0)
        for name, shape in decoder.every_tensor().items()
    }
    step, cache = Step(decoder, weights, {}, operator.emulated, "cpu"), Cache(decoder.states(), torch.float32, "cpu")
    cache.clear(2, 64)
    for kept, buffers in zip(decoder.states(), cache.layers, strict=True):
        for state, buffer in zip(kept, buffers, strict=True):
            if state.rewinds:  # one of fixed size starts at zero
                buffer.fill_(7.0)
    step.show(cache)
    longest = min(24, decoder.config.max_position_embeddings - 1)
    ids = torch.randint(0, decoder.config.vocab_size, (2, 32), dtype=torch.int32)
    held, counts = torch.zeros(2, dtype=torch.int32), torch.tensor([longest, 5])
    room, length = torch.zeros(64, dtype=torch.int8), torch.tensor(longest, dtype=torch.int32)
    with torch.no_grad():
        logits = step(ids, held, counts, length, room, False)
        plain = [
            decoder.logits(TorchOps(weights), ids[row : row + 1, : int(count)])[0, -1]
            for row, count in enumerate(counts)
        ]
        assert torch.allclose(logits[0], plain[0], atol=2e-4)
        follows = any(rope.follows_length for rope in ropes(decoder))
        assert follows or torch.allclose(logits[1], plain[1], atol=2e-4)
        ops = TorchOps(weights, keep_cache=True)
        decoder.logits(ops, ids[:1, :longest])
        following = step(ids[:, :1], counts.int(), torch.ones_like(counts), length + 1, room, False)
        assert torch.allclose(following[0], decoder.logits(ops, ids[:1, :1])[0, -1], atol=2e-4)


@given(
    context=st.integers(1, 200_000), rows=st.integers(1, 64), tokens=st.integers(1, 256), held=st.integers(0, 200_000)
)
@settings(max_examples=200, deadline=None)
def test_a_bucket_is_always_found_and_wastes_little(context: int, rows: int, tokens: int, held: int) -> None:
    table = buckets.Buckets(context)
    held = min(held, max(context - tokens, 0))
    tokens = min(tokens, context - held)
    shape = table.fit(rows, tokens, held)
    assert rows <= shape.rows < 2 * rows
    assert tokens <= shape.tokens < max(2 * tokens, 9)
    assert held + shape.tokens <= shape.room <= max(256, 2 * (held + shape.tokens))
    assert shape in table.every(rows, held + tokens) or shape.room > 256


@pytest.mark.parametrize("table", [False, True])
@pytest.mark.parametrize("bits", [2, 3, 4, 8])
@pytest.mark.parametrize("form", ["symmetric", "asymmetric", "ordered", "rows of 12"])
def test_packed_weights_are_their_integers(bits: int, form: str, table: bool) -> None:
    random = np.random.default_rng(bits)
    rows, columns = (12, 64) if form == "rows of 12" else (16, 64)
    codes = random.integers(0, 1 << bits, (rows, columns)).astype(np.uint8)
    scales = random.uniform(-1, 1, (rows, 4)).astype(np.float16)
    zeros = None if form == "symmetric" else random.integers(0, 1 << bits, (rows, 4)).astype(np.uint8)
    order = random.permutation(columns).astype(np.int32) if form == "ordered" and not table else None
    weight = QTensor(codes, scales, zeros, bits, order)
    stored = Packer(torch.float32, "cpu").store(weight, table=table)
    x = torch.eye(columns)
    assert np.array_equal(stored.apply(x, operator.emulated).numpy(), weight.dequantize().T)
    if table:
        ids = torch.tensor([[3, 0], [rows - 1, 3]], dtype=torch.int32)
        assert np.array_equal(stored.rows(ids, operator.emulated).numpy(), weight.dequantize()[ids.numpy()])


def test_the_operator_gives_the_known_answers_and_a_wrong_one_does_not() -> None:
    for dtype in (torch.float32, torch.bfloat16):
        assert operator.wrong_answers(operator.emulated, "cpu", dtype) == []

    def high_first(
        words: torch.Tensor, scale: torch.Tensor, zero: torch.Tensor | None, dtype: torch.dtype
    ) -> torch.Tensor:
        turned = operator.unpack(words).unflatten(-1, (-1, 8)).flip(-1).flatten(-2)
        return operator.emulated(operator.pack(turned), scale, zero, dtype)

    def clipped(
        words: torch.Tensor, scale: torch.Tensor, zero: torch.Tensor | None, dtype: torch.dtype
    ) -> torch.Tensor:
        return operator.emulated(words, scale, zero, dtype).clamp(min=0)

    assert "order of the numbers" in operator.wrong_answers(high_first, "cpu", torch.float32)
    assert "numbers below the zero point" in operator.wrong_answers(clipped, "cpu", torch.float32)


def test_memory_at_rest(tmp_path: Path) -> None:
    """Bytes on the device against those of the packed integers and of what is in float, in the type that is computed in."""
    options = ConvertOptions(group_size=64, recipe="rtn", embedding_bits=4, lm_head_bits=4)
    folder = convert("demo", tmp_path / "out", options).folders[0]
    engine = HpuEngine(folder, EMULATED)
    step = engine._step
    assert step is not None
    floats = sum(weight.nbytes for part in (step.outside, *step.blocks) for weight in part.weights.values())
    packed = engine.size_bytes() - floats
    before = packed
    engine.prefill([[1, 2, 3]])
    engine.decode([4])
    assert engine.size_bytes() - floats == before  # nothing is kept decoded
    assert abs(packed / engine.packed_bytes - 1) < 0.05


def test_no_hpu_says_what_was_looked_for(checkpoint: Path) -> None:
    with pytest.raises(EngineError, match=r"habana_frameworks .* is not installed") as caught:
        open_engine(checkpoint, "HPU")
    assert "hpu-emulated" in str(caught.value.hint)


MODELS = ["demo", "tales-7m", "stories3M", "TinyStories-656K", "stories260K"]
PROMPT = "Once upon a time, there was a little girl. Once upon a time, there was a"


@pytest.mark.parametrize("name", MODELS)
def test_tokens_are_those_of_other_engines(
    name: str, request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = "demo" if name == "demo" else str(request.getfixturevalue("shared") / "models" / name)
    odd = name == "stories260K"  # its 172 inputs are no multiple of 32, nor of a GPTQ word
    options = ConvertOptions(
        formats=("onnx",) if odd else ("onnx", "gptq"), group_size=-1 if odd else 32, recipe="rtn", embedding_bits=16,
        lm_head_bits=16,
    )  # fmt: skip
    folders = convert(source, tmp_path / "out", options).folders
    prompts = [PROMPT, "A"]
    if name != "demo":  # one compiled model is enough: the others run the same functions as they are
        monkeypatch.setattr(device, "ByShape", lambda backend: lambda key, function, *arguments: function(*arguments))
    with LLM(folders[0], exact=True, threads=1) as llm:
        plain = [llm.generate(prompt, max_new_tokens=30) for prompt in prompts]
    with LLM(folders[-1], EMULATED, exact=True) as llm:
        assert [llm.generate(prompt, max_new_tokens=30).token_ids for prompt in prompts] == [
            answer.token_ids for answer in plain
        ]
        assert [answer.token_ids for answer in llm.generate(prompts, max_new_tokens=30)] == [
            answer.token_ids for answer in plain
        ]
        stop = plain[0].text[8:12]
        assert llm.generate(PROMPT, max_new_tokens=30, stop=[stop]).text == plain[0].text[: plain[0].text.index(stop)]


def in_process(program: str, *arguments: object) -> Any:
    done = subprocess.run(
        [sys.executable, "-c", program, *map(str, arguments)],
        env={**os.environ, "PYTHONPATH": str(Path(ovround.__file__).parent.parent)},
        capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


DEVICE_LOOP = """
import json, torch
from torch._subclasses.fake_tensor import DataDependentOutputException, FakeTensorMode, unset_fake_temporarily
from types import ModuleType
stub = ModuleType("hpu")
stub.current_device = lambda: 0
stub.device_count = lambda: 1
stub.is_initialized = lambda: True
stub.is_available = lambda: True
torch._register_device_module("hpu", stub)
from ovround.models import from_config, smallest_configs
from ovround.tensors.qtensor import QTensor
from ovround.runtime.hpu import operator, step as steps
from ovround.runtime.hpu.cache import Cache
from ovround.runtime.hpu.static_ops import Constants
from ovround.runtime.hpu.weights import Packer, Words
real = Constants.of
def constants(spec, device):
    with unset_fake_temporarily():
        made = real(spec, "cpu")
    like = lambda one: torch.empty(one.shape, device="hpu")
    return Constants(tuple(map(like, made.frequencies)), None if made.slopes is None else like(made.slopes))
Constants.of = staticmethod(constants)
done = []
with FakeTensorMode():
    for family in ("llama", "gemma2", "bloom", "qwen3_moe", "gpt2"):
        decoder = from_config(smallest_configs(family)[0])
        floats, packed = {}, {}
        for name, shape in decoder.every_tensor().items():
            if name.endswith("_proj.weight"):
                n, k = shape
                empty = lambda *size, dtype: torch.empty(size, dtype=dtype, device="hpu")
                packed[name.removesuffix(".weight")] = Words(
                    empty(k, -(-n // 8), dtype=torch.int32), empty(k // 16, -(-n // 8) * 8, dtype=torch.bfloat16),
                    empty(k // 16, -(-n // 8), dtype=torch.int32), n)
            else:
                floats[name] = torch.empty(shape, dtype=torch.bfloat16, device="hpu")
        step = steps.Step(decoder, floats, packed, operator.emulated, "hpu")
        cache = Cache(decoder.states(), torch.bfloat16, "hpu")
        cache.clear(2, 256)
        step.show(cache)
        held = torch.zeros(2, dtype=torch.int32, device="hpu")
        room = torch.zeros(256, dtype=torch.int8, device="hpu")
        found = steps.greedy(step, held.unsqueeze(1), held, room, 3)
        assert found.device.type == "hpu" and found.shape == (2, 3)
        done.append(family)
    try:
        found.sum().item()
    except DataDependentOutputException:
        done.append("a look is found")
print(json.dumps(done))
"""


@pytest.mark.slow
def test_the_greedy_loop_never_looks_at_a_value() -> None:
    """Tensors without values on a device of that name: a host look or a tensor left on the CPU raises."""
    assert in_process(DEVICE_LOOP)[-1] == "a look is found"


SCHEMAS = """
import json, sys, torch
library = torch.library.Library("hpu", "DEF")
library.define("convert_from_uint4(" + sys.argv[1] + ") -> Tensor")
from ovround.runtime.hpu import operator
library.impl("convert_from_uint4", lambda w, s, z, t, *more: operator.emulated(w, s, z, t), "CPU")
try:
    print(json.dumps(operator.wrong_answers(operator.device_operator(), "cpu", torch.bfloat16)))
except Exception as error:
    print(json.dumps(str(error)))
"""
FOUR = "Tensor input, Tensor scale, Tensor? zero_point, ScalarType out_dtype"


@pytest.mark.slow
@pytest.mark.parametrize("more", ["", ", Tensor? group_index, bool disable_fp8_clipping", ", Tensor? group_index=None"])
def test_the_operator_is_called_as_its_schema_asks(more: str) -> None:
    assert in_process(SCHEMAS, FOUR + more) == []


def test_an_operator_that_asks_for_more_is_refused() -> None:
    assert "asks for `mode`" in in_process(SCHEMAS, f"{FOUR}, int mode")


PLUGIN = """
import json, sys
sys.path.insert(0, sys.argv[1])
import ovround, ovround.runtime, ovround.runtime.devices
assert "habana_frameworks" not in sys.modules
from ovround.runtime.hpu.device import probe, probe_in_subprocess
print(json.dumps([probe_in_subprocess().missing if len(sys.argv) > 2 else "", probe().missing]))
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("content", "missing"),
    [("raise AssertionError('stock torch')", "cannot be imported"), ("", "fails when it is asked for devices")],
)
def test_a_plugin_without_a_device_is_no_device(tmp_path: Path, content: str, missing: str) -> None:
    package = tmp_path / "habana_frameworks" / "torch"
    package.mkdir(parents=True)
    (package.parent / "__init__.py").touch()
    (package / "__init__.py").touch()
    (package / "core.py").write_text(content)
    assert missing in in_process(PLUGIN, tmp_path)[1]
