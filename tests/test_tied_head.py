"""A head tied to the embedding: preparation decides it, and the source gives `lm_head.weight` like any other tensor."""

from __future__ import annotations

from pathlib import Path

import pytest
from checkpoint_writer import tiny_config, write_checkpoint

from ovround.conversion.convert import convert
from ovround.conversion.preparation import prepare
from ovround.models import from_config
from ovround.models.decoder import EMBEDDING, HEAD
from ovround.models.tied_head import with_head
from ovround.options.convert_options import ConvertOptions

TABLE, OWN = f"{EMBEDDING}.weight", f"{HEAD}.weight"
RTN = ConvertOptions(recipe="rtn", group_size=32)


@pytest.fixture(scope="module")
def tied(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_checkpoint(tmp_path_factory.mktemp("tied") / "model", tiny_config(tie_word_embeddings=True))


def test_one_scheme_for_both_leaves_it_tied(tied: Path, tmp_path: Path) -> None:
    job = prepare(str(tied), tmp_path / "out", RTN)
    assert job.decoder.head_at == EMBEDDING
    assert HEAD not in job.plan
    assert OWN not in job.decoder.every_tensor()


def test_a_scheme_of_its_own_unties_it(tied: Path, tmp_path: Path) -> None:
    options = ConvertOptions(recipe="rtn", group_size=32, lm_head_bits=4, embedding_bits=8)
    job = prepare(str(tied), tmp_path / "out", options)
    assert job.decoder.head_at == HEAD
    assert job.checkpoint.read(OWN).digest() == job.checkpoint.read(TABLE).digest()
    assert job.checkpoint.tensors()[OWN].shape == job.decoder.every_tensor()[OWN]


def test_a_quantised_source_with_a_tied_head(tied: Path, tmp_path: Path) -> None:
    (folder,) = convert(tied, tmp_path / "gptq", ConvertOptions(formats=("gptq",), recipe="rtn", group_size=32)).folders
    assert prepare(str(folder), tmp_path / "out", ConvertOptions(group_size=32)).decoder.head_at == EMBEDDING
    job = prepare(str(folder), tmp_path / "out", ConvertOptions(group_size=32, lm_head_bits=8))
    assert job.decoder.head_at == HEAD
    assert job.quantised is not None
    shape = job.decoder.every_tensor()[OWN]
    assert job.quantised.read(OWN, shape).digest() == job.quantised.read(TABLE, shape).digest()


@pytest.mark.parametrize("stated", [True, False], ids=["tied", "untied"])
def test_a_written_folder_decides_by_its_weights(stated: bool) -> None:
    decoder = from_config(tiny_config(tie_word_embeddings=stated))
    assert with_head(decoder, own=True).head_at == HEAD
    assert with_head(decoder, own=False).head_at == EMBEDDING
