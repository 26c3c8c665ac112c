"""The C++ runtime decodes any token ids to the same text as Python, piece by piece, by a table if the tokenizer allows it."""

from __future__ import annotations

import json
import random
import shutil
from collections.abc import Callable
from pathlib import Path

import openvino as ov
import pytest
from cpp_build import ROOT, SOURCE, built, need_compiler, run
from openvino_tokenizers import convert_tokenizer
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers
from transformers import AutoTokenizer

from ovround.exporters.openvino.tokenizer import write_tokenizer
from ovround.runtime.text.text_stream import StreamDecoder
from ovround.runtime.text.tokenizer import Tokenizer as PythonTokenizer

CASES = 300
FILES = ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "config.json")
WORDS = [
    "the",
    "a",
    "\u2581the",
    "\u2581\u2581\u2581",
    "\u2581",
    "\u00e9",
    "\u4e2d\u6587",
    "e\u0301",
    "\U0001f642",
    " x",
    "<0xZZ>",
]
pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]  # the first test builds


def byte_tokens() -> list[str]:
    return [f"<0x{value:02X}>" for value in range(256)]


def numbered(tokens: list[str]) -> dict[str, int]:
    return {token: index for index, token in enumerate(tokens)}


def byte_level() -> Tokenizer:
    """Byte-level BPE with added tokens that are not byte-encoded, or that look like other bytes."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    pairs = [("\u00e2", "\u0122"), ("\u0120", "t"), ("\u00f0", "\u0141"), ("\u0120", "\u00e2\u0122")]
    tokenizer = Tokenizer(models.BPE(numbered([*alphabet, *("".join(pair) for pair in pairs), "<0xE2>"]), pairs))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(["<s>", "</s>"])
    tokenizer.add_tokens(
        [AddedToken(text, normalized=False) for text in ("<think>", "\u00e9", "two words", "\u65e5\u672c", "\u0120")]
    )
    return tokenizer


def byte_fallback() -> Tokenizer:
    """A tokenizer like Gemma's: spaces are replaced, unknown characters become byte tokens, nothing is stripped."""
    tokenizer = Tokenizer(
        models.BPE(numbered(["<pad>", *byte_tokens(), *WORDS]), [], byte_fallback=True, fuse_unk=True)
    )
    tokenizer.normalizer = normalizers.Replace(" ", "\u2581")
    tokenizer.decoder = decoders.Sequence([decoders.Replace("\u2581", " "), decoders.ByteFallback(), decoders.Fuse()])
    tokenizer.add_special_tokens(["<pad>", "<eos>"])
    tokenizer.add_tokens([AddedToken("<0x0A>", normalized=False), AddedToken("\n\n", normalized=False)])
    return tokenizer


def stripping() -> Tokenizer:
    """A tokenizer like Mistral's: as Gemma's, but a space at the beginning is stripped."""
    tokenizer = byte_fallback()
    parts = [decoders.Replace("\u2581", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    tokenizer.decoder = decoders.Sequence(parts)
    return tokenizer


MADE: dict[str, Callable[[], Tokenizer]] = {
    "byte level": byte_level,
    "byte fallback": byte_fallback,
    "stripping": stripping,
}
STORED = ["demo", "tales-7m", "stories3M", "TinyStories-656K", "stories260K"]


@pytest.fixture(scope="module")
def replay() -> Path:
    need_compiler()
    return built(SOURCE, ROOT / "build" / "cpp") / "tests" / "ovround-replay"


@pytest.fixture(scope="module", params=[*MADE, *STORED])
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with only a tokenizer, as `convert` writes it."""
    name: str = request.param
    source = tmp_path_factory.mktemp("source")
    if name in MADE:
        MADE[name]().save(str(source / "tokenizer.json"))
        (source / "tokenizer_config.json").write_text('{"tokenizer_class": "PreTrainedTokenizerFast"}')
    elif name == "demo":
        source = ROOT / "ovround" / "demo_model"
    else:
        source = Path(str(request.getfixturevalue("shared"))) / "models" / name
    return written(source, tmp_path_factory.mktemp("folder"))


def written(source: Path, folder: Path) -> Path:
    write_tokenizer(source, folder)
    for name in FILES:
        if (source / name).is_file():
            shutil.copy(source / name, folder)
    return folder


def sequences(tokenizer: PythonTokenizer) -> list[list[int]]:
    """Ids that no model would generate: broken and unfinished characters, special tokens, ids beyond the vocabulary."""
    rng = random.Random(5)
    all_ids = range(tokenizer.vocab_size + 3)
    broken = [
        token_id for token_id in all_ids if tokenizer.is_byte(token_id) or "\ufffd" in tokenizer.decode([token_id])
    ]
    high = [
        token_id
        for token_id in broken
        if tokenizer.is_byte(token_id) and int(tokenizer.token_text(token_id)[3:5], 16) > 127
    ]
    kinds = [all_ids, broken or all_ids, [*broken, *range(min(300, tokenizer.vocab_size))], high or all_ids]
    random_ids = [[rng.choice(kinds[case % len(kinds)]) for _ in range(rng.randint(1, 14))] for case in range(CASES)]
    texts = [
        "\U0001f642\u4e2d\u6587 e\u0301 caf\u00e9",
        "  two  spaces \n\n",
        "\u0939\u093f\u0928\u094d\u0926\u0940",
        "",
    ]
    return [*random_ids, *(tokenizer.encode(text) for text in texts)]


def answers(replay: Path, folder: Path, sequences: list[list[int]]) -> list[dict[str, object]]:
    lines = "".join(json.dumps({"options": {}, "stream": ids}) + "\n" for ids in sequences)
    done = run(replay, folder, input=lines)
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


def test_streams_of_any_ids_are_those_of_python(replay: Path, folder: Path) -> None:
    tokenizer = PythonTokenizer(folder)
    cases = sequences(tokenizer)
    for ids, answer in zip(cases, answers(replay, folder, cases), strict=True):
        stream = StreamDecoder(tokenizer)
        names = [tokenizer.token_text(token_id) for token_id in ids]
        assert answer["pieces"] == [*(stream.push(token_id) for token_id in ids), stream.finish()], names
        assert answer["text"] == tokenizer.decode(ids), names
        assert answer["by_table"] is True


def test_a_graph_that_does_more_than_to_join_is_run(replay: Path, tmp_path: Path) -> None:
    folder = written(ROOT / "ovround" / "demo_model", tmp_path)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.clean_up_tokenization_spaces_for_bpe_even_though_it_will_corrupt_output = True
    graphs = convert_tokenizer(tokenizer, with_detokenizer=True, clean_up_tokenization_spaces=True)
    ov.save_model(graphs[1], folder / "openvino_detokenizer.xml")
    ids = PythonTokenizer(folder).encode("one , two .", add_special_tokens=False)
    (answer,) = answers(replay, folder, [ids])
    assert (answer["by_table"], answer["text"]) == (False, "one, two.")
