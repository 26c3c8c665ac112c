"""Which weights an HPU gets from a checkpoint: the head is the one that transformers uses."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from random_model import CONFIGS, write_random_model
from safetensors.torch import load_file, save_file

from ovround.models.decoder import HEAD
from ovround.runtime.hpu.source import open_weights
from ovround.tensors.float_tensor import FloatTensor


@pytest.mark.parametrize("shift", [0.0, 1.0])
def test_a_stored_head_that_differs_from_a_tied_embedding_is_kept(tmp_path: Path, shift: float) -> None:
    write_random_model(tmp_path, {**CONFIGS["llama-0"], "tie_word_embeddings": True})
    tensors = load_file(tmp_path / "model.safetensors")
    head = tensors["model.embed_tokens.weight"] + shift
    save_file({**tensors, f"{HEAD}.weight": head}, tmp_path / "model.safetensors", {"format": "pt"})
    weights = open_weights(tmp_path)
    assert (weights.decoder.head_at == HEAD) == bool(shift)
    read = dict(weights.weights())
    if shift:
        stored = read[f"{HEAD}.weight"]
        assert isinstance(stored, FloatTensor)
        np.testing.assert_array_equal(stored.float32(), head.to(torch.float32).numpy())
