"""Checks that the libraries whose formats we write load our folders, and compute the same logits as our engines.

MODEL is rounded into each format, in every width, group size and symmetry of the format. Transformers loads every folder with
that format's own library: GPTQModel for GPTQ and AWQ, compressed-tensors for its own. The expected logits are those of ONNX
Runtime in exact mode on the same integers, which benchmarks/formats.py and the tests verify. There, one changed nibble moves
a logit by 2.8e-3 or more.

    python benchmarks/loaders.py MODEL [--cache FOLDER]

The difference is the largest of any logit, relative to the largest logit. GPTQModel's kernels compute in half precision, so
its bound is `--half-tolerance`. Prints a table and, last, one JSON document.
"""

from __future__ import annotations

import argparse
import itertools
import json
import tempfile
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import peers
from formats import engine_logits

from ovround.conversion.convert import convert
from ovround.options.convert_options import ConvertOptions

PEERS = {"gptq": "gptqmodel", "awq": "gptqmodel", "compressed-tensors": "compressed-tensors"}
WIDTHS = {"gptq": (2, 3, 4, 8), "awq": (4,), "compressed-tensors": (4, 8)}
BATCH, TOKENS = 4, 32


@dataclass(frozen=True, slots=True)
class Case:
    """One folder: the layer class that loaded it, and its logits' difference from ours; `refused` is the library's error."""

    format: str
    bits: int
    group_size: int
    sym: bool
    layer: str = ""
    difference: float | None = None
    refused: str = ""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("--group-size", type=int, default=32)
    parser.add_argument("--tolerance", type=float, default=1e-5)
    parser.add_argument("--half-tolerance", type=float, default=1e-3)
    parser.add_argument("--formats", nargs="*", default=list(PEERS), choices=list(PEERS))
    parser.add_argument("--cache", type=Path, help="folder of the peers' environments")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        cases = [case for name in arguments.formats for case in compare(name, arguments, Path(scratch))]
    for case in cases:
        bound = arguments.half_tolerance if PEERS[case.format] == "gptqmodel" else arguments.tolerance
        assert case.difference is None or case.difference <= bound, case
    for case in cases:
        difference = "-" if case.difference is None else f"{case.difference:.1e}"
        scheme = f"{case.bits} | {case.group_size} | {'sym' if case.sym else 'asym'}"
        print(f"| {case.format} | {scheme} | {difference} | {case.layer} | {case.refused[:80]} |")
    print(json.dumps({"model": arguments.model.name, "cases": [asdict(case) for case in cases]}))


def compare(name: str, arguments: argparse.Namespace, scratch: Path) -> list[Case]:
    """One case for every quantisation scheme of one format."""
    vocab = json.loads((arguments.model / "config.json").read_text())["vocab_size"]
    tokens = np.random.default_rng(0).integers(2, vocab, (BATCH, TOKENS))
    np.save(scratch / "tokens.npy", tokens)
    schemes = list(itertools.product(WIDTHS[name], (arguments.group_size, -1), (True, False)))
    folders, expected = {}, {}
    for number, (bits, group_size, sym) in enumerate(schemes):
        out = scratch / f"{name}-{number}"
        options = ConvertOptions(formats=(name, "onnx"), bits=bits, group_size=group_size, sym=sym, recipe="rtn")
        made = convert(arguments.model, out, options).folders
        folders[str(made[0])] = f"{out}.npy"
        expected[str(made[0])] = engine_logits(made[1], tokens)
    worker = {"cache": arguments.cache, "tokens_file": str(scratch / "tokens.npy")}
    answer = peers.run(PEERS[name], "transformers_logits", folders=folders, **worker)
    if (
        name == "compressed-tensors" and answer["failed"]
    ):  # its compressor reads folders that transformers' loader refuses
        again = {folder: file for folder, file in folders.items() if folder in answer["failed"]}
        alone = peers.run(PEERS[name], "transformers_logits", alone=True, folders=again, **worker)
        answer["layers"] |= alone["layers"]
    cases = []
    for (folder, file), (bits, group_size, sym) in zip(folders.items(), schemes, strict=True):
        case = Case(name, bits, group_size, sym)
        refused = answer["failed"].get(folder, "")
        if folder not in answer["layers"]:
            cases.append(replace(case, refused=refused))
            continue
        far = np.abs(np.load(file) - expected[folder]).max() / np.abs(expected[folder]).max()
        cases.append(replace(case, layer=answer["layers"][folder], difference=float(far), refused=refused))
    return cases


if __name__ == "__main__":
    main()
