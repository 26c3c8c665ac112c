"""Checks that integers and logits survive the exchange of checkpoints with auto-round, in every format that it writes.

For each packing format, width and symmetry that auto-round 0.16.1 exports of a model:

    in    its folder -> `convert` -> OpenVINO and ONNX. The integers equal those that a slow reader reads from the folder, and
          logits in exact mode equal those of auto-round's own de-quantised layers under transformers.
    out   the same integers, written by us as auto_round, GPTQ or AWQ. Auto-round loads them and computes the same logits.

    python benchmarks/formats.py MODEL [--cache FOLDER]

The model's sizes should be multiples of 32, because auto-round leaves other layers in float. Logits differ only by the order
of float32 sums. `--tolerance` bounds that difference, and one changed nibble must exceed it. Prints a table and, last, one
JSON document.
"""

from __future__ import annotations

import argparse
import json
import shutil
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import peers
from numpy.typing import NDArray

from ovround.conversion.convert import Conversion, convert
from ovround.options.convert_options import ConvertOptions
from ovround.runtime.engines import open_engine
from ovround.tensors.qtensor import QTensor

FORMATS = ("auto_round", "auto_round:auto_gptq", "auto_round:gptqmodel", "auto_round:auto_awq", "auto_gptq", "auto_awq")
BACK = {"auto_gptq": "gptq", "auto_awq": "awq"}  # auto-round's format -> our format for the way back
BATCH, TOKENS = 4, 32
AWQ_ORDER = (0, 2, 4, 6, 1, 3, 5, 7)
Array = NDArray[Any]


@dataclass(frozen=True, slots=True)
class Case:
    """The comparisons of one export. A difference is the largest of any logit, relative to the largest logit."""

    format: str
    bits: int
    sym: bool
    loads_in_auto_round: bool
    weights: int
    integers_equal: bool
    openvino: float
    onnx: float
    written_as: str
    written: float | None  # None: auto-round has no backend on this machine for the folder that we wrote
    one_nibble: float


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("--group-size", type=int, default=32)
    parser.add_argument("--tolerance", type=float, default=1e-5)
    parser.add_argument("--cache", type=Path, help="Where the peers' environments are.")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        cases, refused = compare(arguments, Path(scratch))
    for case in cases:
        assert case.integers_equal, case
        assert max(case.openvino, case.onnx, case.written or 0.0) <= arguments.tolerance < case.one_nibble, case
    show(cases)
    print(json.dumps({"model": arguments.model.name, "cases": [asdict(case) for case in cases], "refused": refused}))


def compare(arguments: argparse.Namespace, scratch: Path) -> tuple[list[Case], dict[str, str]]:
    vocab = json.loads((arguments.model / "config.json").read_text())["vocab_size"]
    tokens = np.random.default_rng(0).integers(2, vocab, (BATCH, TOKENS))
    tokens_file = scratch / "tokens.npy"
    np.save(tokens_file, tokens)
    configurations = [(name, bits, sym) for name in FORMATS for bits in (2, 3, 4, 8) for sym in (True, False)]
    exports = [
        {
            "out": str(scratch / f"{name.replace(':', '-')}-{bits}-{'sym' if sym else 'asym'}"),
            "export_format": name,
            "scheme": {"bits": bits, "group_size": arguments.group_size, "sym": sym},
            # mixed bits, if the format supports them
            "layers": {} if "awq" in name else {"model.layers.1.mlp.down_proj": {"bits": 8 if bits != 8 else 4}},
        }
        for name, bits, sym in configurations
    ]
    worker = {"cache": arguments.cache, "tokens_file": str(tokens_file)}
    made = peers.run("auto-round", "auto_round_export", model=str(arguments.model.resolve()), exports=exports, **worker)
    folders = {out: folder for out, folder in made["exported"].items() if out not in made["failed"]}
    ours: dict[str, Path] = {}
    conversions = {}
    for out, folder in folders.items():
        conversions[out] = convert(folder, Path(f"{out}-engines"), ConvertOptions(formats=("openvino", "onnx")))
        name = next(export["export_format"] for export in exports if export["out"] == out)
        ours[out] = convert(
            folder, Path(f"{out}-written"), ConvertOptions(formats=(BACK.get(str(name), "auto_round"),))
        ).folders[0]
    nibble = {out: with_a_nibble_changed(Path(folder), Path(f"{out}-nibble")) for out, folder in folders.items()}
    every = [*folders.values(), *map(str, ours.values())]
    files = {folder: f"{scratch / str(number)}.npy" for number, folder in enumerate(every)}
    answer = peers.run("auto-round", "auto_round_export", folders=files, **worker)
    refused = dict(made["failed"]) | {
        out: reason for out, reason in answer["failed"].items() if out in folders.values()
    }
    cases = []
    for export, (name, bits, sym) in zip(exports, configurations, strict=True):
        out = str(export["out"])
        if out not in folders or folders[out] in answer["failed"]:
            continue
        expected = np.load(files[folders[out]])
        openvino, onnx = (engine_logits(folder, tokens) for folder in conversions[out].folders)
        with_nibble = convert(nibble[out], Path(f"{out}-nibble-onnx"), ConvertOptions(formats=("onnx",))).folders[0]
        written = str(ours[out])
        cases.append(
            Case(
                name, bits, sym, answer["loaded"][folders[out]], *same_integers(Path(folders[out]), conversions[out]),
                difference(openvino, expected), difference(onnx, expected), BACK.get(name, "auto_round"),
                difference(np.load(files[written]), expected) if answer["loaded"].get(written) else None,
                difference(engine_logits(with_nibble, tokens), expected),
            )
        )  # fmt: skip
    return cases, {Path(out).name: reason[:120] for out, reason in refused.items()}


def engine_logits(folder: Path, tokens: Array) -> Array:
    engine = open_engine(folder, exact=True, threads=1)
    logits = engine.logits(tokens)
    engine.close()
    return logits


def difference(computed: Array, expected: Array) -> float:
    return float(np.abs(computed - expected).max() / np.abs(expected).max())


def same_integers(folder: Path, conversion: Conversion) -> tuple[int, bool]:
    """The number of weights, and whether each digest in the manifest equals that of the weight that the slow reader reads.

    `convert` has already compared the manifest's digests with the weights that it read back from the engines' files.
    """
    tensors = words(folder)
    settings = json.loads((folder / "config.json").read_text())["quantization_config"]
    packing = settings.get("packing_format", settings["quant_method"])
    modules = [name.removesuffix(".qweight") for name in tensors if name.endswith(".qweight")]
    for manifest in conversion.manifests:
        records = {record.name: record for record in manifest.weights}
        for module in modules:
            record = records[f"{module}.weight"]
            qweight, qzeros, scales = (tensors[f"{module}.{part}"] for part in ("qweight", "qzeros", "scales"))
            (rows, columns), groups = record.shape, len(scales)
            if "awq" in packing:
                bits = 4
                codes, zeros = slow_awq(qweight, rows), slow_awq(qzeros, rows)
            else:
                bits = len(qweight) * 32 // columns
                codes = slow_stream(qweight, bits, columns)
                less = 0 if packing in ("auto_round", "auto_round:gptqmodel") else 1
                zeros = slow_stream(qzeros.T, bits, rows).T.astype(np.uint16) + less
            width = bits if zeros.max() < 1 << bits else 8  # a zero point of 2^bits lies in a wider container
            assert codes.shape == (rows, columns)
            assert zeros.shape == (rows, groups)
            kept = None if record.symmetric else zeros.astype(np.uint8)
            if QTensor(codes, scales.T, kept, width).digest() != record.sha256:
                return len(modules), False
    return len(modules), True


def words(folder: Path) -> dict[str, Array]:
    """The int32 and float16 tensors of a folder, read by numpy from the file's own header."""
    tensors = {}
    for file in sorted(folder.glob("*.safetensors")):
        content = file.read_bytes()
        start = 8 + int.from_bytes(content[:8], "little")
        for name, entry in json.loads(content[8:start]).items():
            kind = {"I32": "<i4", "F16": "<f2"}.get(entry.get("dtype"))
            if kind is not None:
                first, last = (start + offset for offset in entry["data_offsets"])
                tensors[name] = np.frombuffer(content[first:last], kind).reshape(entry["shape"])
    return tensors


def slow_stream(packed: Array, bits: int, count: int) -> Array:
    """Unpack words `[W, R]` into codes `[R, count]`, one at a time with Python's own integers."""
    mask = (1 << bits) - 1
    rows = []
    for row in range(packed.shape[1]):
        stream = sum((int(word) & 0xFFFFFFFF) << (32 * index) for index, word in enumerate(packed[:, row]))
        rows.append([stream >> (bits * index) & mask for index in range(count)])
    return np.array(rows, np.uint8)


def slow_awq(packed: Array, columns: int) -> Array:
    """Unpack AWQ's words `[R, W]` into codes `[columns, R]` in the same way."""
    position = {column: nibble for nibble, column in enumerate(AWQ_ORDER)}
    unsigned = packed.astype(np.int64) & 0xFFFFFFFF
    codes = [[int(word) >> (4 * position[n % 8]) & 15 for word in unsigned[:, n // 8]] for n in range(columns)]
    return np.array(codes, np.uint8)


def with_a_nibble_changed(folder: Path, out: Path) -> Path:
    """A copy of `folder` in which the highest bit of both nibbles of the first byte of codes is flipped."""
    shutil.copytree(folder, out)
    for file in sorted(out.glob("*.safetensors")):
        content = bytearray(file.read_bytes())
        start = 8 + int.from_bytes(content[:8], "little")
        entry = json.loads(content[8:start]).get("model.layers.0.mlp.gate_proj.qweight")
        if entry is not None:
            content[start + entry["data_offsets"][0]] ^= 0x88
            file.write_bytes(content)
    return out


def show(cases: list[Case]) -> None:
    head = (
        "format",
        "bits",
        "scheme",
        "loads",
        "weights",
        "integers",
        "openvino",
        "onnx",
        "written as",
        "written",
        "nibble",
    )
    rows = [
        (
            case.format, case.bits, "sym" if case.sym else "asym", "yes" if case.loads_in_auto_round else "no", case.weights,
            "equal" if case.integers_equal else "differ", f"{case.openvino:.1e}", f"{case.onnx:.1e}", case.written_as,
            "-" if case.written is None else f"{case.written:.1e}", f"{case.one_nibble:.1e}",
        )
        for case in cases
    ]  # fmt: skip
    print("| " + " | ".join(head) + " |\n|" + "---|" * len(head))
    for row in rows:
        print("| " + " | ".join(map(str, row)) + " |")


if __name__ == "__main__":
    main()
