"""What each way of making a model smaller leaves of it: divergence from the original against bytes, one protocol for all.

    python benchmarks/frontier.py MODEL --text TEST.txt --calibration TRAIN.txt --results frontier.jsonl [--points 'ours * 4' ...]

Points: ours (rounding, light, default, best at 8 to 2 bits; an average by budget; codebooks), auto-round's three recipes,
NNCF's int4 of our 16-bit IR, and llama.cpp's types by ik_llama.cpp's prebuilt quantiser, with an importance matrix of the same
calibration text. All are compared with MODEL's own float32 logits, which are computed once and kept in --cache; a GGUF type
counts as the numbers that it stands for. A point that stands in --results is not made again. The table marks the points below
which no other lies; --plot draws it.
"""

from __future__ import annotations

import argparse
import fnmatch
import json
import math
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import peers
import torch
from numpy.typing import NDArray
from quality import Setup, auto_round

from ovround import Budget, Codebooks, ConvertOptions, convert
from ovround.checkpoint.gguf import GgufCheckpoint
from ovround.conversion.adapted_source import open_adapted
from ovround.measure.evaluation import open_logits
from ovround.measure.perplexity import Logits, cut_samples, evaluate
from ovround.measure.torch_model import PackedWeights
from ovround.models import from_config
from ovround.models.torch_ops import TorchOps
from ovround.quant.calibration.samples import calibrate
from ovround.runtime import LLM
from ovround.source_tokenizer import load_tokenizer
from ovround.texts import text_prefix

RECIPES = ("rtn", "light", "default", "best")
AUTO_ROUND = {"light": (50, 128), "default": (200, 128), "best": (1000, 512)}  # steps and samples of its recipes
LLAMA = (
    "Q8_0", "Q6_K", "Q5_K_M", "Q5_0", "Q4_K_M", "Q4_0", "IQ4_NL", "IQ4_XS", "Q3_K_M", "IQ3_S", "IQ3_XXS", "Q2_K", "IQ2_S", "IQ2_XS",
    "IQ2_XXS",
)  # fmt: skip
OURS: dict[str, dict[str, Any]] = {
    **{f"ours rtn {bits}": {"recipe": "rtn", "bits": bits} for bits in (8, 4, 3, 2)},
    **{f"ours {recipe} {bits}": {"recipe": recipe, "bits": bits} for bits in (4, 3, 2) for recipe in RECIPES[1:]},
    **{f"ours default {bits} 4-bit ends": {"bits": bits, "lm_head_bits": 4, "embedding_bits": 4} for bits in (4, 3)},
    **{f"ours budget {bits}": {"budget": Budget(bits, "bits")} for bits in (4.5, 3.5, 2.5)},
    "ours codebooks 2x8": {"codebooks": Codebooks.parse("2x8:8")},
}


@dataclass(frozen=True, slots=True)
class Point:
    """What one way leaves of one model; `seconds` are those of making it, on a clock."""

    model: str
    name: str
    bytes: int
    perplexity: float
    accuracy: float
    kl_nats: float
    top1_agreement: float
    seconds: float


class KeptLogits:
    """The reference's logits of each sample, computed once and mapped from a file."""

    def __init__(self, logits: Logits, samples: NDArray[np.int64], vocab_size: int, path: Path) -> None:
        self._places = {sample.tobytes(): index for index, sample in enumerate(samples)}
        shape = (*samples.shape, vocab_size)
        if not path.is_file():
            partial = path.with_suffix(".part")
            made = np.memmap(partial, np.float32, "w+", shape=shape)
            for index, sample in enumerate(samples):
                made[index] = logits(sample[None])[0]
            made.flush()
            partial.rename(path)
        self._kept = np.memmap(path, np.float32, "r", shape=shape)

    def __call__(self, ids: NDArray[np.int64]) -> NDArray[np.float32]:
        return np.stack([self._kept[self._places[sample.tobytes()]] for sample in ids])


@dataclass(frozen=True, slots=True)
class Frontier:
    """A model, and what all of its points share."""

    model: Path
    samples: NDArray[np.int64]
    reference: KeptLogits
    vocab_size: int
    prefix: Any
    calibration: tuple[Path, ...]
    cache: Path

    def points(self) -> Iterator[tuple[str, Callable[[Path], tuple[Logits, int]]]]:
        """Names, and what makes each in a folder: its logits and bytes."""
        yield "original", lambda folder: (open_logits(self.model), 2 * self._parameters())
        for name, options in OURS.items():
            yield name, lambda folder, options=options: self._ours(folder, options)
        for recipe, (steps, samples) in AUTO_ROUND.items():
            for bits in (4, 3, 2):
                yield (
                    f"auto-round {recipe} {bits}",
                    lambda folder, b=bits, s=steps, n=samples: self._auto_round(folder, b, s, n),
                )
        yield "NNCF 4", self._nncf
        for kind in LLAMA:
            yield f"llama.cpp {kind}", lambda folder, kind=kind: self._llama(folder, kind)

    def measure(self, name: str, make: Callable[[Path], tuple[Logits, int]]) -> Point:
        with tempfile.TemporaryDirectory() as scratch:
            started = time.monotonic()
            logits, size = make(Path(scratch))
            seconds = time.monotonic() - started
            score = evaluate(self.samples, logits, self.vocab_size, self.reference, prefix=self.prefix)
        assert score.kl_nats is not None
        assert score.top1_agreement is not None
        return Point(
            self.model.name, name, size, score.perplexity, score.accuracy, score.kl_nats, score.top1_agreement, round(seconds, 1)
        )  # fmt: skip

    def _options(self, changes: dict[str, Any]) -> ConvertOptions:
        return ConvertOptions(**{"calibration": self.calibration, **changes})

    def _ours(self, folder: Path, changes: dict[str, Any]) -> tuple[Logits, int]:
        return self._opened(convert(str(self.model), folder / "out", self._options(changes)).folders[0])

    def _opened(self, folder: Path) -> tuple[Logits, int]:
        llm = LLM(folder, exact=True)
        return llm.logits, (folder / "openvino_model.bin").stat().st_size

    def _nncf(self, folder: Path) -> tuple[Logits, int]:
        whole = convert(str(self.model), folder / "whole", ConvertOptions(recipe="rtn", bits=16)).folders[0]
        return self._opened(convert(str(whole), folder / "out", self._options({"bits": 4})).folders[0])

    def _auto_round(self, folder: Path, bits: int, steps: int, samples: int) -> tuple[Logits, int]:
        """Its embedding and head stay in float16, so its bytes count them so; a scale of 16 bits for each group."""
        group = 64 if from_config(open_adapted(self.model).config).config.hidden_size % 128 else 128
        options = self._options({"bits": bits, "group_size": group, "iters": steps, "nsamples": samples})
        setup = Setup((), self.calibration, self.samples.shape[1], samples, steps, self.cache)
        auto_round(self.model, folder / "out", options, setup)
        decoder = from_config(open_adapted(self.model).config)
        shapes = decoder.every_tensor()
        linears = {
            f"{name}.weight" for layer in range(decoder.config.num_hidden_layers) for name in decoder.linears(layer)
        }
        size = sum(
            math.prod(shape) * (bits / 8 + 2 / group if name in linears else 2) for name, shape in shapes.items()
        )
        return open_logits(folder / "out"), round(size)

    def _llama(self, folder: Path, kind: str) -> tuple[Logits, int]:
        whole = self.cache / f"{self.model.name}.f16" / "model.gguf"
        if not whole.is_file():
            convert(str(self.model), whole.parent, ConvertOptions(formats=("gguf",), recipe="rtn", bits=16))
        matrix = self.cache / f"{self.model.name}.imatrix"
        if not matrix.is_file():
            write_importance(whole, self._calibration_samples(), matrix)
        binary = next(
            peers.python("ik-llama-cpp", self.cache)
            .parents[1]
            .glob("lib/*/site-packages/ik_llama_cpp/bin/llama-quantize")
        )
        out = folder / f"{kind}.gguf"
        command = [str(binary), "--imatrix", str(matrix), str(whole), str(out), kind, "1"]
        ended = subprocess.run(command, capture_output=True, text=True, check=False)
        if ended.returncode:
            raise peers.WorkerError(f"llama-quantize {kind} ended with {ended.returncode}: {ended.stderr[-300:]}")
        return open_logits(out), out.stat().st_size

    def _calibration_samples(self) -> NDArray[np.int64]:
        config = from_config(open_adapted(self.model).config).config
        options = self._options({"nsamples": 64, "seqlen": self.samples.shape[1]})
        found = calibrate(load_tokenizer(self.model), options, config.max_position_embeddings, config.vocab_size)
        samples: NDArray[np.int64] = found.samples
        return samples

    def _parameters(self) -> int:
        return sum(math.prod(shape) for shape in from_config(open_adapted(self.model).config).every_tensor().values())


class SquaresOps(TorchOps):
    """Computes as `TorchOps` does, and sums the squares of each linear layer's inputs."""

    def __init__(self, weights: Any, sums: dict[str, tuple[torch.Tensor, int]]) -> None:
        super().__init__(weights)
        self._sums = sums

    def linear(self, x: torch.Tensor, at: str) -> torch.Tensor:
        rows = x.reshape(-1, x.shape[-1]).double()
        before, count = self._sums.get(at, (torch.zeros(x.shape[-1], dtype=torch.float64), 0))
        self._sums[at] = before + rows.square().sum(0), count + len(rows)
        return super().linear(x, at)


@torch.no_grad()
def write_importance(path: Path, samples: NDArray[np.int64], out: Path) -> None:
    """Write the importance matrix of a GGUF file in llama.cpp's first format: the mean square of each input of each tensor."""
    source = open_adapted(path)
    assert isinstance(source, GgufCheckpoint)
    decoder = from_config(source.config)
    shapes = decoder.every_tensor()
    located = source.located(shapes)
    weights, sums = PackedWeights(located, shapes), dict[str, tuple[torch.Tensor, int]]()
    for sample in samples:
        decoder.logits(SquaresOps(weights, sums), torch.from_numpy(sample[None]))
    entries = {
        located.places[f"{at}.weight"].tensor: (total / count).float().numpy() for at, (total, count) in sums.items()
    }
    with out.with_suffix(".part").open("wb") as file:
        file.write(struct.pack("<i", len(entries)))
        for name, values in entries.items():
            encoded = name.encode()
            file.write(
                struct.pack("<i", len(encoded)) + encoded + struct.pack("<ii", 1, len(values)) + values.tobytes()
            )
    out.with_suffix(".part").rename(out)


def envelope(points: list[Point]) -> set[str]:
    """The names of the points below which no smaller or equal one lies."""
    found, least = set(), math.inf
    for point in sorted(points, key=lambda one: (one.bytes, one.kl_nats)):
        if point.kl_nats < least:
            found.add(point.name)
            least = point.kl_nats
    return found


def show(points: list[Point]) -> None:
    lowest = envelope([point for point in points if point.name != "original"])
    print("| point | MB | KL nats | top-1 | perplexity | next token kept | s | lowest |")
    print("|---|---|---|---|---|---|---|---|")
    original = next((point for point in points if point.name == "original"), None)
    for point in sorted(points, key=lambda one: -one.bytes):
        kept = "-" if original is None else f"{point.accuracy / original.accuracy:.1%}"
        print(
            f"| {point.name} | {point.bytes / 1e6:.1f} | {point.kl_nats:.4f} | {point.top1_agreement:.1%} | {point.perplexity:.3f} | "
            f"{kept} | {point.seconds:.0f} | {'yes' if point.name in lowest else ''} |"
        )


def plot(points: list[Point], path: Path) -> None:
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(8, 5))
    for family in ("ours", "auto-round", "NNCF", "llama.cpp"):
        own = sorted((point for point in points if point.name.startswith(family)), key=lambda one: one.bytes)
        axes.plot([point.bytes / 1e6 for point in own], [point.kl_nats for point in own], "o", label=family)
        for point in own:
            axes.annotate(point.name.removeprefix(family).strip(), (point.bytes / 1e6, point.kl_nats), fontsize=6)
    axes.set(xlabel="MB of weights", ylabel="KL from the original, nats", yscale="log", title=points[0].model)
    axes.legend()
    figure.savefig(path, dpi=150)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("--text", type=Path, required=True)
    parser.add_argument("--calibration", type=Path, action="append", required=True)
    parser.add_argument("--results", type=Path, required=True)
    parser.add_argument("--points", nargs="+", default=["*"], help="patterns of names; default: all")
    parser.add_argument("--context", type=int, default=512)
    parser.add_argument("--kilobytes", type=int, default=40, help="of the text's beginning that are scored")
    parser.add_argument("--cache", type=Path, default=Path(".cache/frontier"))
    parser.add_argument("--plot", type=Path)
    given = parser.parse_args()
    given.cache.mkdir(parents=True, exist_ok=True)
    tokenizer, config = load_tokenizer(given.model), from_config(open_adapted(given.model).config).config
    text = given.text.read_bytes()[: given.kilobytes * 1000].decode("utf-8", "ignore")
    prefix = text_prefix(tokenizer)
    tokens = np.asarray(tokenizer.encode(text).ids, np.int64)
    samples = cut_samples(tokens, given.context, str(given.text), prefix)
    kept = given.cache / f"{given.model.name}-{given.text.stem}-{given.kilobytes}-{given.context}.logits"
    reference = KeptLogits(open_logits(given.model), samples, config.vocab_size, kept)
    frontier = Frontier(
        given.model,
        samples,
        reference,
        config.vocab_size,
        prefix,
        tuple(given.calibration),
        given.cache,
    )
    lines = given.results.read_text().splitlines() if given.results.is_file() else []
    points = [point for line in lines if (point := Point(**json.loads(line))).model == given.model.name]
    for name, make in frontier.points():
        if any(point.name == name for point in points) or not any(fnmatch.fnmatch(name, one) for one in given.points):
            continue
        try:
            points.append(frontier.measure(name, make))
        except Exception as error:  # noqa: BLE001  the other points are measured all the same
            print(f"{name}: {error}", file=sys.stderr, flush=True)
            continue
        print(points[-1], file=sys.stderr, flush=True)
        with given.results.open("a") as file:
            file.write(json.dumps(asdict(points[-1])) + "\n")
    show(points)
    if given.plot:
        plot(points, given.plot)
    print(json.dumps({"benchmark": "frontier", "points": [asdict(point) for point in points]}))


if __name__ == "__main__":
    main()
