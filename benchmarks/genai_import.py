"""Checks that onnxruntime-genai's builder converts our GPTQ and Olive folders bit for bit.

The model is rounded to 4 bits, symmetric and asymmetric, and written as GPTQ, as Olive and as our own ONNX. The builder
converts the first two to ONNX, and every product's codes and scales are compared with ours. The head is not compared, because
the builder quantises a float head itself.

    python benchmarks/genai_import.py ovround/demo_model

Asserts that all are equal. The last line printed is one JSON document.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path

import numpy as np
import onnx
import peers
from numpy.typing import NDArray

from ovround.conversion.convert import convert
from ovround.exporters.onnx.external_data import read_entries
from ovround.options.convert_options import ConvertOptions

GROUP = 32


def builders(folder: Path) -> dict[str, NDArray[np.generic]]:
    """Initializers of the builder's model by name; fused query, key and value stay fused."""
    model = onnx.load(folder / "model.onnx")
    return {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in model.graph.initializer}


def compared(folder: Path, theirs: dict[str, NDArray[np.generic]]) -> tuple[int, int]:
    """The number of products that can be compared, and the number with equal codes and scales."""
    entries = read_entries(folder / "model.onnx", "model.onnx.data")
    same, products = 0, 0
    with (folder / "model.onnx.data").open("rb") as file:
        for name in [name for name in entries if name.endswith("_proj.weight") and ".layers." in name]:
            parts = name.removesuffix(".weight").replace("self_attn", "attn")
            if f"{parts}.MatMulNBits.qweight" not in theirs:
                continue  # the builder has fused or split this product
            products += 1
            codes, scales = (entries[part].read(file).tobytes() for part in (name, f"{name}/scales"))
            same += (
                theirs[f"{parts}.MatMulNBits.qweight"].tobytes() == codes
                and theirs[f"{parts}.MatMulNBits.scales"].astype(np.float32).tobytes() == scales
            )
    return products, same


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("--cache", type=Path, help="where peers' environments are kept")
    arguments = parser.parse_args()
    equal_products = {}
    with tempfile.TemporaryDirectory() as scratch:
        for sym in (True, False):
            options = ConvertOptions(
                formats=("gptq", "olive", "onnx"), bits=4, group_size=GROUP, sym=sym, recipe="rtn", lm_head_bits=16,
                embedding_bits=16,
            )  # fmt: skip
            *written, ours = convert(arguments.model, Path(scratch) / f"sym-{sym}", options).folders
            for folder in written:
                out = Path(scratch) / f"built-{sym}-{folder.name}"
                peers.run(
                    "onnxruntime-genai", "genai_build", cache=arguments.cache, model=str(folder), out=str(out),
                    group_size=GROUP,
                )  # fmt: skip
                products, same = compared(ours, builders(out))
                name = f"{folder.name}, {'symmetric' if sym else 'with zero points'}"
                print(f"{name}: {same} of {products} products equal")
                equal_products[name] = [same, products]
    print(json.dumps(equal_products))
    assert equal_products
    assert all(same == products > 0 for same, products in equal_products.values())


if __name__ == "__main__":
    main()
