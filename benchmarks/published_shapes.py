"""Does the smallest published model of each family convert and run? Its shape is tried, with few layers of random weights.

`published_shapes.json` has each family's config.json, by the model's name; they were written down without the hub at hand, so
that a size may differ from the published file. transformers says which tensors the shape has. A shape keeps as many layers as
it takes to have each kind of layer, 2 at least. The vocabulary is cut where the checkpoint would be larger than
`--largest-gib`, which its line says. Each is converted (rtn, 4 bits, OpenVINO) and gives 8 tokens.

    python benchmarks/published_shapes.py [FAMILY ...] [--largest-gib 2] [--threads 2]
"""

from __future__ import annotations

import argparse
import gc
import json
import math
import shutil
import tempfile
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from ovround.conversion.convert import convert
from ovround.errors import OvroundError
from ovround.models import families, from_config
from ovround.options.convert_options import ConvertOptions
from ovround.runtime.engines import open_engine

SHAPES = Path(__file__).with_suffix(".json")
TOKENIZER = Path(__file__).resolve().parent.parent / "ovround" / "demo_model"
PROMPT, NEW_TOKENS = [5, 6, 7, 8, 9, 10, 11, 12], 8
LAYER_KEYS, VOCABULARY = ("num_hidden_layers", "n_layer", "n_layers"), "vocab_size"
SMALL_VOCABULARY, BFLOAT16_BYTES = 8192, 2
POOL = 1 << 20  # random values that are repeated: their making would take longer than everything else
# Ids beyond a cut vocabulary would be refused by transformers.
SPECIAL_IDS = {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}


@dataclass(frozen=True, slots=True)
class Result:
    """One line: what was tried, or why it failed."""

    family: str
    model: str
    layers: str = ""
    vocabulary: str = ""
    parameters_millions: float = 0.0
    convert_s: float = 0.0
    decode_ms: float = 0.0
    error: str = ""

    def line(self) -> str:
        """For people."""
        head = f"{self.family:17} {self.model:38}"
        if self.error:
            return f"{head} FAILED: {self.error}"
        return (
            f"{head} layers {self.layers:7} vocabulary {self.vocabulary:16} {self.parameters_millions:6.0f} M parameters, "
            f"converted in {self.convert_s:5.1f} s, {self.decode_ms:6.1f} ms a token"
        )


def cut(published: Mapping[str, Any]) -> tuple[dict[str, Any], int, int]:
    """The config.json with few layers, their number, and that of the published model."""
    key = next(key for key in LAYER_KEYS if key in published)
    blocks = from_config(published).blocks
    kept = next(count for count in range(2, len(blocks) + 1) if set(blocks[:count]) == set(blocks))
    lists = {
        name: value[:kept] for name, value in published.items() if isinstance(value, list) and len(value) == len(blocks)
    }
    return {**published, **lists, **SPECIAL_IDS, key: kept}, kept, len(blocks)


def tensors_of(config: Mapping[str, Any], folder: Path) -> dict[str, tuple[int, ...]]:
    """Name and shape of each tensor that transformers saves, a tied head left out; writes config.json."""
    (folder / "config.json").write_text(json.dumps(config))
    known = AutoConfig.from_pretrained(folder)
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(known)
    every, once = (dict(model.named_parameters(remove_duplicate=once)) for once in (False, True))
    tied = set(every) - set(once)
    return {name: tuple(tensor.shape) for name, tensor in model.state_dict().items() if name not in tied}


def write_checkpoint(path: Path, tensors: Mapping[str, tuple[int, ...]]) -> None:
    """One safetensors file of bfloat16: matrices of random values that repeat, vectors of ones."""
    random = np.random.Generator(np.random.PCG64(0)).standard_normal(POOL, np.float32) * np.float32(0.02)
    pool = (random.view(np.uint32) >> np.uint32(16)).astype("<u2").tobytes()
    ones = np.uint16(0x3F80).tobytes()
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    offset = 0
    for name, shape in tensors.items():
        end = offset + math.prod(shape) * BFLOAT16_BYTES
        header[name] = {"dtype": "BF16", "shape": shape, "data_offsets": [offset, end]}
        offset = end
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for shape in tensors.values():
            for block in _blocks(math.prod(shape), ones * POOL if len(shape) < 2 else pool):
                file.write(block)


def _blocks(count: int, pool: bytes) -> Iterator[bytes]:
    while count:
        taken = min(count, POOL)
        yield pool[: taken * BFLOAT16_BYTES]
        count -= taken


def try_shape(family: str, entry: Mapping[str, Any], folder: Path, largest_bytes: float, threads: int) -> Result:
    """Write the shape's checkpoint, convert it, and let it give tokens."""
    config, kept, layers = cut(entry["config"])
    vocabulary = published = int(config[VOCABULARY])
    source, out = folder / "model", folder / "out"
    source.mkdir()
    tensors = tensors_of(config, source)
    if sum(math.prod(shape) for shape in tensors.values()) * BFLOAT16_BYTES > largest_bytes:
        vocabulary = SMALL_VOCABULARY
        tensors = tensors_of({**config, VOCABULARY: vocabulary}, source)
    write_checkpoint(source / "model.safetensors", tensors)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(TOKENIZER / name, source)
    start = time.perf_counter()
    (converted,) = convert(source, out, ConvertOptions(formats=("openvino",), bits=4, recipe="rtn")).folders
    convert_s = time.perf_counter() - start
    engine = open_engine(converted, threads=threads, kernel="engine")
    logits = engine.prefill([PROMPT])
    start = time.perf_counter()
    for _ in range(NEW_TOKENS):
        logits = engine.decode([int(logits[0].argmax())])
    decode_ms = (time.perf_counter() - start) / NEW_TOKENS * 1000
    engine.close()
    if logits.shape != (1, vocabulary) or not np.isfinite(logits).all():
        raise ValueError(f"logits {logits.shape}, finite: {np.isfinite(logits).all()}")
    return Result(
        family, entry["model"], f"{kept}/{layers}",
        str(vocabulary) if vocabulary == published else f"{vocabulary} of {published}",
        sum(math.prod(shape) for shape in tensors.values()) / 1e6, convert_s, decode_ms,
    )  # fmt: skip


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("family", nargs="*", help="model types; all of published_shapes.json by default")
    parser.add_argument(
        "--largest-gib", type=float, default=2.0, help="checkpoint size beyond which the vocabulary is cut"
    )
    parser.add_argument("--threads", type=int, default=2, help="threads of the engine")
    arguments = parser.parse_args()
    shapes: dict[str, dict[str, Any]] = json.loads(SHAPES.read_text())
    missing = sorted(set(families()) - set(shapes))
    results = []
    for family in arguments.family or shapes:
        with tempfile.TemporaryDirectory(prefix="published-shapes-") as folder:
            try:
                result = try_shape(
                    family, shapes[family], Path(folder), arguments.largest_gib * 2**30, arguments.threads
                )
            except (OvroundError, RuntimeError, ValueError) as error:
                result = Result(
                    family, shapes[family]["model"], error=f"{type(error).__name__}: {error}".partition("\n")[0]
                )
        results.append(result)
        print(result.line(), flush=True)
        gc.collect()
    good = sum(not result.error for result in results)
    print(f"{good} of {len(results)} shapes convert and run; families without a shape: {', '.join(missing) or 'none'}")
    print(json.dumps({"converted": good, "tried": len(results), "families_without_a_shape": missing}))
    return int(good < len(results))


if __name__ == "__main__":
    raise SystemExit(main())
