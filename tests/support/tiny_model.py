"""A tiny random model with its own tokenizer, as a checkpoint and exported for each engine; and a fake engine."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers

from ovround.exporters.formats import open_exporter
from ovround.models import from_config, smallest_configs
from ovround.tensors.float_tensor import FloatTensor
from ovround.tensors.qtensor import QTensor

VOCAB_SIZE = 320  # 256 bytes, the special tokens and the trained merges
CONTEXT_LENGTH = 640  # longer than one piece of the ONNX engine's prefill
SPECIAL = ["<unk>", "<s>", "</s>", "<|user|>", "<|assistant|>"]
TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}<|{{ message.role }}|>{{ message.content }}{{ eos_token }}{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
TEXT = "once upon a time there was a little cat that sat on the mat and the end of the story was the end of the cat "
Weights = dict[str, NDArray[np.float32]]


def write_source(folder: Path) -> Weights:
    """Write a checkpoint folder without weights, and return the weights."""
    folder.mkdir()
    config = {**smallest_configs("llama")[0], "vocab_size": VOCAB_SIZE, "max_position_embeddings": CONTEXT_LENGTH}
    config |= {"bos_token_id": 1, "eos_token_id": 2, "architectures": ["LlamaForCausalLM"]}
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "generation_config.json").write_text(json.dumps({"bos_token_id": 1, "eos_token_id": [2]}))
    names = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
    tokenizer_config = {"tokenizer_class": "PreTrainedTokenizerFast", "chat_template": TEMPLATE, **names}
    (folder / "tokenizer_config.json").write_text(json.dumps(tokenizer_config))
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.train_from_iterator(
        [TEXT * 8],
        trainers.BpeTrainer(
            vocab_size=VOCAB_SIZE,
            special_tokens=SPECIAL,
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        ),
    )
    tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    tokenizer.save(str(folder / "tokenizer.json"))
    rng = np.random.default_rng(5)
    decoder = from_config(config)
    parts = (None, *range(decoder.config.num_hidden_layers))
    shapes = {name: shape for part in parts for name, shape in decoder.tensors(part).items()}
    return {
        name: (rng.standard_normal(shape) * 0.2 + ("norm" in name)).astype(np.float32) for name, shape in shapes.items()
    }


def export(engine: str, source: Path, weights: Mapping[str, NDArray[np.float32] | QTensor], folder: Path) -> Path:
    """Export the checkpoint for `engine`; arrays are written in float32."""
    folder.mkdir()
    config = json.loads((source / "config.json").read_text())
    writer = open_exporter(engine, folder, from_config(config), source, {}, config=config)
    for name, values in weights.items():
        writer.write(name, values if isinstance(values, QTensor) else FloatTensor(values, "float32"))
    writer.finish()
    writer.close()
    return folder


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Weights]:
    """The checkpoint folder (no weights in it) and its weights."""
    folder = tmp_path_factory.mktemp("tiny") / "source"
    return folder, write_source(folder)


@pytest.fixture(scope="session")
def exporting() -> Callable[[str, Path, Mapping[str, NDArray[np.float32] | QTensor], Path], Path]:
    """`export`, for tests with their own weights."""
    return export


@pytest.fixture(scope="session")
def openvino_folder(tiny: tuple[Path, Weights], tmp_path_factory: pytest.TempPathFactory) -> Path:
    return export("openvino", *tiny, tmp_path_factory.mktemp("openvino") / "out")


@pytest.fixture(scope="session")
def onnx_folder(tiny: tuple[Path, Weights], tmp_path_factory: pytest.TempPathFactory) -> Path:
    return export("onnx", *tiny, tmp_path_factory.mktemp("onnx") / "out")


@pytest.fixture(params=["openvino", "onnx"])
def folder(request: pytest.FixtureRequest) -> Path:
    """The tiny model for each engine in turn."""
    path: Path = request.getfixturevalue(f"{request.param}_folder")
    return path


@pytest.fixture(scope="session")
def reference(tiny: tuple[Path, Weights]) -> Callable[[Sequence[int]], NDArray[np.float32]]:
    """A function that computes the logits `[T, V]` of one row of ids by torch in float32."""
    import torch

    from ovround.models.torch_ops import TorchOps

    decoder = from_config(json.loads((tiny[0] / "config.json").read_text()))
    weights = {name: torch.from_numpy(values) for name, values in tiny[1].items()}

    def logits(ids: Sequence[int]) -> NDArray[np.float32]:
        with torch.no_grad():
            values: NDArray[np.float32] = decoder.logits(TorchOps(weights), torch.tensor([list(ids)]))[0].numpy()
        return values

    return logits


class FakeEngine:
    """An engine that counts upwards: the likeliest token after t is t + 1 (mod V). It records its calls."""

    def __init__(self, vocab_size: int = 32, context_length: int = 64) -> None:
        self.vocab_size, self.context_length, self.device = vocab_size, context_length, "fake"
        self.kernel = "engine"
        self.batch_sizes: list[int] = []
        self.kept: list[list[int]] = []

    def _next(self, tokens: Sequence[int]) -> NDArray[np.float32]:
        self.batch_sizes.append(len(tokens))
        return np.eye(self.vocab_size, dtype=np.float32)[[(token + 1) % self.vocab_size for token in tokens]] * 8

    def prefill(self, prompts: Sequence[Sequence[int]]) -> NDArray[np.float32]:
        return self._next([prompt[-1] for prompt in prompts])

    def decode(self, ids: Sequence[int]) -> NDArray[np.float32]:
        return self._next(ids)

    def extend(self, rows: Sequence[Sequence[int]]) -> NDArray[np.float32]:
        return np.stack([self._next(row) for row in rows])

    def rewind(self, lengths: Sequence[int]) -> None:
        pass

    def keep(self, rows: Sequence[int]) -> None:
        self.kept.append(list(rows))

    def reset(self) -> None:
        self.kept.clear()

    def logits(self, ids: NDArray[np.int64]) -> NDArray[np.float32]:
        return np.stack([self._next(row.tolist()) for row in ids])

    def close(self) -> None:
        pass


@pytest.fixture
def fake_engine() -> FakeEngine:
    return FakeEngine()


def trained_models() -> list[Any]:
    """Folders of real models, from OVROUND_TEST_MODELS; one skipped case if it is not set."""
    root = os.environ.get("OVROUND_TEST_MODELS")
    if not root:
        return [pytest.param(None, marks=pytest.mark.skip(reason="OVROUND_TEST_MODELS names no folder of models"))]
    return [
        pytest.param(path, id=path.name) for path in sorted(Path(root).iterdir()) if (path / "config.json").is_file()
    ]


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "trained_model" in metafunc.fixturenames:
        metafunc.parametrize("trained_model", trained_models())
