"""Checkpoints of before tokenizer.json: a SentencePiece model, vocab.json with merges.txt, tiktoken's ranks."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

import pytest
from checkpoint_writer import STORY, VOCAB_SIZE, tiny_config, tokenizer_json, write_checkpoint
from transformers import AutoTokenizer

from ovround import source_tokenizer
from ovround.artifact.manifest import ENGINE_FORMATS
from ovround.conversion.convert import convert
from ovround.conversion.preparation import prepare
from ovround.errors import CheckpointError, MissingExtraError
from ovround.options.convert_options import ConvertOptions
from ovround.runtime import LLM

TEXTS = (
    "once upon a time", " leading  and  double spaces ", "the cat\n\nsat\ton the mat", "caf\u00e9 \U0001f642 \u4f60\u597d", "",
    "a</s>b",
)  # fmt: skip


def sentencepiece(folder: Path) -> None:
    library: Any = pytest.importorskip("sentencepiece")
    text = folder / "words.txt"
    text.write_text(f"{STORY}\n" * 8)
    library.SentencePieceTrainer.train(
        input=str(text), model_prefix=str(folder / "tokenizer"), vocab_size=VOCAB_SIZE - 20, model_type="bpe",
        byte_fallback=True, hard_vocab_limit=False, minloglevel=2,
    )  # fmt: skip
    text.unlink()
    (folder / "tokenizer.vocab").unlink()
    settings(folder, "LlamaTokenizer", bos_token="<s>", eos_token="</s>", unk_token="<unk>", legacy=False)  # noqa: S106


def vocab_and_merges(folder: Path) -> None:
    model = json.loads(tokenizer_json())["model"]
    (folder / "vocab.json").write_text(json.dumps(model["vocab"]))
    merges = (pair if isinstance(pair, str) else " ".join(pair) for pair in model["merges"])
    (folder / "merges.txt").write_text("\n".join(["#version: 0.2", *merges]) + "\n")
    settings(folder, "GPT2Tokenizer", bos_token="<s>", eos_token="</s>", unk_token="<unk>")  # noqa: S106


def ranks(folder: Path) -> None:
    pytest.importorskip("tiktoken")
    pieces = [bytes([value]) for value in range(256)] + [
        b"th",
        b"the",
        b" th",
        b" the",
        b"at",
        b" c",
        b" cat",
        b"on",
        b"ce",
        b"once",
    ]
    lines = (f"{base64.b64encode(piece).decode()} {rank}" for rank, piece in enumerate(pieces))
    (folder / "tokenizer.model").write_text("\n".join(lines) + "\n")
    settings(folder, "PreTrainedTokenizerFast", eos_token="</s>")  # noqa: S106


def settings(folder: Path, tokenizer_class: str, **more: Any) -> None:
    (folder / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": tokenizer_class, **more}))


def checkpoint(folder: Path) -> Path:
    write_checkpoint(folder, tiny_config())
    (folder / "tokenizer.json").unlink()
    return folder


@pytest.mark.parametrize("write", [sentencepiece, vocab_and_merges, ranks])
def test_the_ids_are_those_of_transformers(write: Any, tmp_path: Path) -> None:
    source = checkpoint(tmp_path / "source")
    write(source)
    reference = AutoTokenizer.from_pretrained(source)
    before = sorted(path.name for path in source.iterdir())
    options = ConvertOptions(formats=(*ENGINE_FORMATS, "auto_round"), recipe="rtn")
    folders = convert(source, tmp_path / "out", options).folders
    assert sorted(path.name for path in source.iterdir()) == before
    for folder in folders[:2]:
        with LLM(folder) as llm:
            for text in TEXTS:
                for special in (True, False):
                    ids = reference(text, add_special_tokens=special).input_ids
                    assert llm.tokenizer.encode(text, add_special_tokens=special) == ids
                assert llm.tokenizer.decode(ids) == reference.decode(ids, skip_special_tokens=True)
            assert llm.generate("once upon a time", max_new_tokens=3).token_ids
    genai: Any = pytest.importorskip("openvino_genai")
    tokenizer = genai.Tokenizer(folders[0])
    for text in TEXTS[:3]:
        assert tokenizer.encode(text).input_ids.data.tolist() == [reference(text).input_ids]
    written = AutoTokenizer.from_pretrained(folders[2])
    assert all(written(text).input_ids == reference(text).input_ids for text in TEXTS)


def test_text_to_tune_on_is_cut_by_it(tmp_path: Path) -> None:
    source = checkpoint(tmp_path / "source")
    vocab_and_merges(source)
    options = ConvertOptions(iters=1, nsamples=8, seqlen=16)
    assert convert(source, tmp_path / "out", options).manifests[0].quality is not None


@pytest.mark.parametrize(("first", "library"), [(b"\x0a", "sentencepiece"), (b"IQ==", "tiktoken")])
def test_a_missing_library_is_named_with_what_installs_it(
    first: bytes, library: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = checkpoint(tmp_path / "source")
    (source / "tokenizer.model").write_bytes(first)
    monkeypatch.setattr(source_tokenizer.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(MissingExtraError, match=f"this needs `{library}`, which is not installed") as caught:
        prepare(str(source), tmp_path / "out", ConvertOptions(recipe="rtn"))
    assert caught.value.hint == "pip install 'ovround[convert]'"


def test_what_gives_no_tokenizer_is_refused_before_any_work(tmp_path: Path) -> None:
    source = checkpoint(tmp_path / "source")
    with pytest.raises(CheckpointError, match=r"has no tokenizer\.json, and no older tokenizer"):
        prepare(str(source), tmp_path / "out", ConvertOptions(recipe="rtn"))
    pytest.importorskip("tiktoken")
    (source / "tokenizer.model").write_bytes(b"no ranks\n")
    with pytest.raises(CheckpointError, match=r"transformers makes no tokenizer of tokenizer\.model: ") as caught:
        prepare(str(source), tmp_path / "out", ConvertOptions(recipe="rtn"))
    assert str(tmp_path) not in str(caught.value).replace(str(source), "")


def test_a_damaged_sentencepiece_model_is_refused(tmp_path: Path) -> None:
    pytest.importorskip("sentencepiece")
    source = checkpoint(tmp_path / "source")
    (source / "tokenizer.model").write_bytes(b"\x0a\x10damaged")
    with pytest.raises(CheckpointError, match="transformers makes no tokenizer of tokenizer"):
        prepare(str(source), tmp_path / "out", ConvertOptions(recipe="rtn"))
