"""Logits and tokens of a GGUF file by llama.cpp, in a process of its own: `python llama_cpp.py FILE OUT.npz JSON`.

The package ik-llama-cpp-python carries it prebuilt; tests are skipped where it is not installed.
"""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray


def llama_cpp(file: Path, ids: Sequence[int], texts: Sequence[str] = ()) -> tuple[NDArray[np.float32], list[list[int]]]:
    """Logits `[T, V]` of the tokens `ids`, and the tokens of each text, special ones read as such."""
    if importlib.util.find_spec("ik_llama_cpp") is None:
        pytest.skip("ik-llama-cpp-python is not installed")
    out = file.parent / "llama_cpp.npz"
    job = json.dumps({"ids": list(ids), "texts": list(texts)})
    done = subprocess.run(
        [sys.executable, __file__, file, out, job], capture_output=True, text=True, errors="replace", check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
    with np.load(out) as found:
        return found["logits"], json.loads(str(found["tokens"]))


def _main(file: str, out: str, job: str) -> None:
    from ik_llama_cpp import _ctypes_api as api
    from ik_llama_cpp._internals import IkModel

    ids, texts = json.loads(job).values()
    model = IkModel(file)
    params = api.llama_context_default_params()
    params.n_ctx = params.n_batch = 512
    params.n_threads = params.n_threads_batch = 1
    params.flash_attn = False
    context = api.llama_init_from_model(model.model, params)
    batch = api.llama_batch_init(len(ids), 0, 1)
    batch.n_tokens = len(ids)
    for position, token in enumerate(ids):
        batch.token[position], batch.pos[position], batch.logits[position] = token, position, 1
        batch.n_seq_id[position], batch.seq_id[position][0] = 1, 0
    if api.llama_decode(context, batch):
        sys.exit("llama_decode failed")
    rows = [
        np.ctypeslib.as_array(api.llama_get_logits_ith(context, row), (model.n_vocab,)).copy()
        for row in range(len(ids))
    ]
    tokens = [model.tokenize(text, add_bos=False, special=True) for text in texts]
    np.savez(out, logits=np.stack(rows), tokens=json.dumps(tokens))


if __name__ == "__main__":
    _main(*sys.argv[1:])
