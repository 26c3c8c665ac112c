"""What does the tuning of one block of experts take in memory and time?

A random Qwen3-MoE is tuned (recipe light by default, few samples), in a process of its own. Its block has `--experts` experts
of `--inner` x `--hidden`. Bytes a weight are those of the peak above the memory that a rounding of the same model takes. The
digest is one over all integers, to compare two versions of the code.

    python benchmarks/tune_memory.py [--hidden 512] [--inner 512] [--experts 64] [--iters 4] [--set KEY=VALUE ...]

The last line printed is one JSON document.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import published_shapes

TOKENIZER = published_shapes.TOKENIZER


def write_model(folder: Path, arguments: argparse.Namespace) -> int:
    """The random checkpoint; the weights of one block's experts."""
    config = {
        "architectures": ["Qwen3MoeForCausalLM"], "model_type": "qwen3_moe", "hidden_size": arguments.hidden,
        "intermediate_size": 256, "moe_intermediate_size": arguments.inner, "num_hidden_layers": arguments.layers,
        "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 64, "vocab_size": 4096, "num_experts": arguments.experts,
        "num_experts_per_tok": arguments.top_k, "norm_topk_prob": True, "max_position_embeddings": 2048,
        "tie_word_embeddings": True, **published_shapes.SPECIAL_IDS,
    }  # fmt: skip
    folder.mkdir()
    published_shapes.write_checkpoint(folder / "model.safetensors", published_shapes.tensors_of(config, folder))
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (folder / name).write_bytes((TOKENIZER / name).read_bytes())
    return int(3 * arguments.hidden * arguments.inner * arguments.experts)


def convert(task: dict[str, Any]) -> dict[str, Any]:
    """One conversion in this process."""
    from ovround.artifact.manifest import read_manifest
    from ovround.conversion.convert import convert as run
    from ovround.options.convert_options import ConvertOptions
    from ovround.options.tuning_options import TuningOptions

    tuned = {} if task["recipe"] == "rtn" else {
        "iters": task["iters"], "nsamples": task["nsamples"], "seqlen": task["seqlen"],
        "tuning": TuningOptions(end_to_end_steps=0, **task["set"]),
    }  # fmt: skip
    start = time.perf_counter(), time.process_time()
    options = ConvertOptions(formats=("openvino",), bits=4, group_size=64, recipe=task["recipe"], **tuned)
    folder = run(task["model"], task["out"], options).folders[0]
    digests = hashlib.sha256(" ".join(record.sha256 for record in read_manifest(folder).weights).encode())
    return {
        "peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        "elapsed_s": time.perf_counter() - start[0], "processor_s": time.process_time() - start[1],
        "digest": digests.hexdigest()[:16],
    }  # fmt: skip


def in_process(task: dict[str, Any]) -> dict[str, Any]:
    result = subprocess.run(
        [sys.executable, __file__, "--task", json.dumps(task)], check=True, stdout=subprocess.PIPE, text=True
    )
    figures: dict[str, Any] = json.loads(result.stdout.splitlines()[-1])
    return figures


def _setting(text: str) -> tuple[str, Any]:
    key, _, value = text.partition("=")
    return key, int(value) if value.isdecimal() else value


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, default in {
        "hidden": 512, "inner": 512, "experts": 64, "top-k": 8, "layers": 2, "iters": 4, "nsamples": 12, "seqlen": 64,
    }.items():  # fmt: skip
        parser.add_argument(f"--{name}", type=int, default=default, help=f"default {default}")
    parser.add_argument("--set", type=_setting, action="append", default=[], help="a field of TuningOptions, KEY=VALUE")
    parser.add_argument("--task", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.task:
        print(json.dumps(convert(json.loads(arguments.task))))
        return 0
    with tempfile.TemporaryDirectory(prefix="tune-memory-") as scratch:
        model = Path(scratch) / "model"
        weights = write_model(model, arguments)
        task = {
            "model": str(model),
            "iters": arguments.iters,
            "nsamples": arguments.nsamples,
            "seqlen": arguments.seqlen,
        }
        figures = {
            recipe: in_process({**task, "set": dict(arguments.set), "recipe": recipe, "out": f"{scratch}/{recipe}"})
            for recipe in ("rtn", "light")
        }
    above = (figures["light"]["peak_mb"] - figures["rtn"]["peak_mb"]) * 2**20
    print(json.dumps({"experts_weights": weights, "bytes_a_weight": round(above / weights, 1), **figures}))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
