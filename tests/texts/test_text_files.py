"""Texts and chats in every shape that data sets have: rendered as the model sees them, or refused with the line and its keys."""

from __future__ import annotations

import csv
import gzip
import json
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from checkpoint_writer import tiny_config, write_checkpoint
from hub_server import HubServer
from transformers import AutoTokenizer

from ovround.conversion.preparation import prepare
from ovround.errors import CalibrationError, MissingExtraError
from ovround.options.budget import Budget
from ovround.options.convert_options import ConvertOptions
from ovround.quant.calibration.samples import calibrate, token_stream
from ovround.source_tokenizer import chat_renderer, load_tokenizer
from ovround.texts import Chat, Document, read_documents

CHAT = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}]
SHAREGPT = [{"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Hello"}]
SAME = "user:Hi|assistant:Hello|"


def render(chat: Chat) -> str:
    tools = f"tools:{len(chat.variables['tools'])}|" if chat.variables else ""
    return tools + "".join(f"{message['role']}:{message['content']}|" for message in chat.messages)


def read(path: Path) -> list[str]:
    return [document.text for document in read_documents(path, render)]


def lines(path: Path, *records: Any) -> Path:
    path.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")
    return path


@pytest.mark.parametrize(
    ("record", "expected"),
    [
        ({"messages": CHAT}, SAME),
        ({"messages": CHAT, "source": "web", "id": 3}, SAME),
        ({"conversations": SHAREGPT}, SAME),
        ({"conversation": SHAREGPT}, SAME),
        ({"conversations": SHAREGPT, "system": "Be kind"}, f"system:Be kind|{SAME}"),
        ({"prompt": "Hi", "completion": "Hello"}, SAME),
        ({"prompt": [CHAT[0]], "completion": [CHAT[1]]}, SAME),
        ({"prompt": "Hi", "chosen": CHAT, "rejected": SHAREGPT}, SAME),
        ({"prompt": "Hi", "chosen": "Hello", "rejected": "No"}, SAME),
        ({"prompt": [CHAT[0]], "chosen": [CHAT[1]], "rejected": []}, SAME),
        ({"instruction": "Hi", "output": "Hello"}, SAME),
        ({"instruction": "Hi", "input": "", "output": "Hello"}, SAME),
        ({"instruction": "Add", "input": "1 2", "output": "3", "system": "S"}, "system:S|user:Add\n\n1 2|assistant:3|"),
        ({"instruction": "Sum", "context": "1", "response": "1", "category": "x"}, "user:Sum\n\n1|assistant:1|"),
        ({"question": "Hi", "answer": "Hello"}, SAME),
        ({"query": "Hi", "response": "Hello"}, SAME),
        ({"text": "as it is", "messages": CHAT}, "as it is"),
        ({"messages": CHAT, "tools": [{"name": "f"}]}, f"tools:1|{SAME}"),
        ({"messages": [{"role": "user", "content": [{"type": "text", "text": "Hi"}]}, CHAT[1]]}, SAME),
        (CHAT, SAME),
        ("plain", "plain"),
    ],
)  # fmt: skip
def test_each_shape_of_a_record(tmp_path: Path, record: Any, expected: str) -> None:
    """In JSON lines, in a JSON list, and gzipped."""
    assert read(lines(tmp_path / "a.jsonl", record, record)) == [expected, expected]
    (tmp_path / "a.json").write_text(json.dumps([record, record]))
    assert read(tmp_path / "a.json") == [expected, expected]
    (tmp_path / "a.jsonl.gz").write_bytes(gzip.compress((tmp_path / "a.jsonl").read_bytes()))
    assert read(tmp_path / "a.jsonl.gz") == [expected, expected]


@pytest.mark.parametrize(
    "content",
    [{"data": [{"text": "x"}]}, {"train": ["x"]}, {"version": 1, "rows": [{"text": "x"}]}, {"text": "x"}, ["x"]],
)
def test_a_json_file_is_a_list_or_an_object_with_one(tmp_path: Path, content: Any) -> None:
    (tmp_path / "a.json").write_text(json.dumps(content))
    assert read(tmp_path / "a.json") == ["x"]


def test_one_chat_alone_and_lines_that_are_named_json(tmp_path: Path) -> None:
    (tmp_path / "chat.json").write_text(json.dumps({"messages": CHAT}))
    assert read(tmp_path / "chat.json") == [SAME]
    (tmp_path / "list.json").write_text(json.dumps(CHAT))
    assert read(tmp_path / "list.json") == [SAME]
    assert read(lines(tmp_path / "lines.json", {"text": "x"}, {"text": "y"})) == ["x", "y"]


@pytest.mark.parametrize("kind", ["parquet", "arrow", "feather", "csv", "tsv"])
def test_tables(tmp_path: Path, kind: str) -> None:
    rows: list[dict[str, Any]] = [
        {"instruction": "Hi", "output": "Hello"},
        {"instruction": "a,b\tc", "output": 'say "x"'},
    ]
    path = tmp_path / f"a.{kind}"
    if kind in ("csv", "tsv"):
        with path.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, list(rows[0]), delimiter="," if kind == "csv" else "\t")
            writer.writeheader()
            writer.writerows(rows)
    else:
        rows.append({"conversations": SHAREGPT})
        write_table(path, rows)
    expected = [SAME, 'user:a,b\tc|assistant:say "x"|', SAME]
    assert read(path) == expected[: len(rows)]


def write_table(path: Path, rows: list[dict[str, Any]]) -> None:
    pa = pytest.importorskip("pyarrow")
    from pyarrow import feather, parquet

    table = pa.Table.from_pylist([{key: row.get(key) for key in {k: 0 for r in rows for k in r}} for row in rows])
    if path.suffix == ".parquet":
        parquet.write_table(table, path)
    elif path.suffix == ".feather":
        feather.write_feather(table, path)
    else:
        with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_stream(sink, table.schema) as writer:
            writer.write_table(table)


@pytest.mark.parametrize(
    ("record", "message"),
    [
        ({"story": "x", "id": 1}, "line 2 is not understood; its keys are story, id"),
        ({"role": "user", "content": "x"}, "line 2 is one message of a chat"),
        ({"messages": [{"role": "narrator", "content": "x"}]}, "line 2: `messages`, message 1 has the role 'narrator'"),
        ({"messages": [{"content": "x"}]}, "message 1 has the role None; its keys are content"),
        ({"messages": [{"role": "user", "body": "x"}]}, "message 1 has no content; its keys are role, body"),
        ({"messages": [{"role": "user", "content": 7}]}, "message 1 is 7, which is no string"),
        ({"messages": [{"role": "user", "content": [{"type": "image"}]}]}, "message 1 has parts that are no text"),
        ({"messages": []}, "line 2: `messages` has no messages"),
        ({"messages": ["x"]}, "message 1 is 'x'; an object with role and content is needed"),
        ({"prompt": "x"}, "line 2 is not understood; its keys are prompt"),
        ({"instruction": "x", "output": ["y"]}, "line 2: `output` is ['y'], which is no string"),
        ({}, "line 2 is not understood; its keys are none"),
        (None, "line 2 is None, neither a text nor an object"),
    ],
)  # fmt: skip
def test_what_is_not_understood_is_refused_with_its_line(tmp_path: Path, record: Any, message: str) -> None:
    path = lines(tmp_path / "a.jsonl", {"text": "good"}, record)
    with pytest.raises(CalibrationError) as caught:
        read(path)
    assert message in str(caught.value)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize(
    "content", [json.dumps([{"text": "x"}]), json.dumps({"messages": CHAT}) + "\n" + json.dumps(CHAT)]
)
@pytest.mark.parametrize("name", ["a.txt", "a", "a.data"])
def test_json_is_never_read_as_raw_text(tmp_path: Path, name: str, content: str) -> None:
    (tmp_path / name).write_text(content)
    with pytest.raises(CalibrationError, match="is JSON, yet its name does not end so"):
        read(tmp_path / name)


@pytest.mark.parametrize("content", ["[1] A footnote.\n\nText", "{brace} text", "Once upon a time", '"quoted"'])
def test_text_stays_text(tmp_path: Path, content: str) -> None:
    (tmp_path / "a.txt").write_text(content)
    assert list(read_documents(tmp_path / "a.txt")) == [Document(content)]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.json", "{broken", "is no JSON"), ("a.json", '{"a": [1], "b": [2]}', "is an object of a, b; a list of records"),
        ("a.parquet", "no parquet", "is no valid parquet file"), ("a.jsonl.gz", "no gzip", "cannot be read"),
    ],
)  # fmt: skip
def test_damaged_files_are_named(tmp_path: Path, name: str, content: str, message: str) -> None:
    (tmp_path / name).write_text(content)
    with pytest.raises(CalibrationError) as caught:
        read(tmp_path / name)
    assert message in str(caught.value)
    assert name in str(caught.value)


def test_parquet_without_its_library_names_the_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a.parquet").write_bytes(b"PAR1")
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(MissingExtraError, match="pyarrow") as caught:
        read(tmp_path / "a.parquet")
    assert "ovround[data]" in str(caught.value.hint)


def test_a_chat_for_a_model_without_a_template_is_refused(tmp_path: Path) -> None:
    path = lines(tmp_path / "a.jsonl", {"messages": CHAT})
    with pytest.raises(CalibrationError, match="line 1 is a chat, and the model has no chat template"):
        list(read_documents(path))


def test_chats_give_the_ids_of_transformers(tmp_path: Path) -> None:
    """`apply_chat_template` with tokenize=True: no special tokens beside those of the template."""
    folder = write_checkpoint(tmp_path / "model", tiny_config())
    path = lines(tmp_path / "a.jsonl", {"messages": CHAT}, {"text": "once upon"}, {"conversations": SHAREGPT})
    theirs = AutoTokenizer.from_pretrained(folder)
    chat = list(theirs.apply_chat_template(CHAT, tokenize=True, return_dict=False))
    expected = [*chat, *theirs.encode("once upon"), *chat]
    assert token_stream(load_tokenizer(folder), [path], 320, chat_renderer(folder)).tolist() == expected


def test_a_chat_that_the_template_refuses_is_named(tmp_path: Path) -> None:
    folder = write_checkpoint(tmp_path / "model", tiny_config())
    (folder / "chat_template.jinja").write_text("{{ raise_exception('roles must alternate') }}")
    path = lines(tmp_path / "a.jsonl", {"text": "x"}, {"messages": CHAT})
    with pytest.raises(
        CalibrationError, match=r"line 2: the chat template refuses these messages: roles must alternate"
    ):
        list(read_documents(path, chat_renderer(folder)))


CARD = """---
configs:
- config_name: chats
  data_files:
  - split: train
    path: chats/train-*.parquet
  - split: test
    path: [chats/test.jsonl]
- config_name: plain
  default: true
  data_files: plain/*.jsonl
---
# A data set
"""


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A hub with a data set whose card lists configurations, one without a card, and one without data."""
    folder = tmp_path_factory.mktemp("hub")
    for name in ("carded/chats", "carded/plain", "bare/data", "bare/other", "code"):
        (folder / name).mkdir(parents=True)
    (folder / "carded/README.md").write_text(CARD)
    for number in range(2):
        write_table(folder / f"carded/chats/train-{number}.parquet", [{"messages": CHAT}] * 3)
    lines(folder / "carded/chats/test.jsonl", {"messages": [*CHAT, *CHAT]})
    lines(folder / "carded/plain/a.jsonl", {"text": "plain"})
    lines(folder / "bare/data/train.jsonl", *({"text": f"training {number}"} for number in range(5000)))
    lines(folder / "bare/data/train2.jsonl", {"text": "never fetched"})
    lines(folder / "bare/data/validation.jsonl", {"text": "validation"})
    lines(folder / "bare/other/x.jsonl", {"text": "other"})
    (folder / "code/code.py").write_text("raise SystemExit")
    with HubServer({f"ovround-tests/{name}": folder / name for name in ("carded", "bare", "code")}) as server:
        yield server


PROGRAM = """
import sys
from pathlib import Path
from ovround.errors import OvroundError
from ovround.texts import read_documents
from ovround.texts.data_set import TO_SCORE, TO_TUNE
render = lambda chat: "".join(f"{m['role']}:{m['content']}|" for m in chat.messages)
try:
    for document in read_documents(Path(sys.argv[1]), render, TO_SCORE if sys.argv[2:] else TO_TUNE):
        print(document.text)
except OvroundError as error:
    print("error:", error, "hint:", error.hint)
"""


@pytest.fixture
def from_hub(hub: HubServer, tmp_path: Path) -> Callable[..., list[str]]:
    """What a process reads from the hub, line by line."""

    def run(*arguments: str) -> list[str]:
        environment: Mapping[str, str] = hub.environment(tmp_path / "home")
        result = subprocess.run(
            [sys.executable, "-c", PROGRAM, *arguments],
            env={**environ(), **environment},
            capture_output=True,
            text=True,
            check=True,
        )
        return result.stdout.splitlines()

    return run


def environ() -> dict[str, str]:
    import os

    return {key: value for key, value in os.environ.items() if not key.startswith("HF_")}


def test_data_sets_of_the_hub(from_hub: Callable[..., list[str]]) -> None:
    """The configuration and the split are the card's; without a card, folders and the names of files say them."""
    assert from_hub("ovround-tests/carded") == ["plain"]
    assert from_hub("ovround-tests/carded:chats") == [SAME] * 6
    assert from_hub("ovround-tests/carded:chats", "score") == [SAME + SAME]
    assert from_hub("ovround-tests/carded:chats@main", "score") == [SAME + SAME]
    assert from_hub("ovround-tests/bare:other") == ["other"]
    assert from_hub("ovround-tests/bare", "score") == ["validation"]
    assert from_hub("ovround-tests/bare")[-1] == "never fetched"


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("ovround-tests/carded:other", "has no configuration `other` hint: it has chats, plain"),
        (
            "ovround-tests/bare:none",
            "has no files to read of configuration `none` hint: its configurations: data, other",
        ),
        ("ovround-tests/code", "has no files to read hint: formats that are read: .jsonl"),
        ("ovround-tests/absent", "`ovround-tests/absent` is no file here, and the hub gave no data set of that name: "),
    ],
)
def test_data_sets_that_are_not_there(from_hub: Callable[..., list[str]], name: str, message: str) -> None:
    (line,) = from_hub(name)
    assert message in line


def test_a_large_data_set_is_read_no_further_than_needed(
    hub: HubServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Files are fetched as they are read: the second is not."""
    folder = write_checkpoint(tmp_path / "model", tiny_config())
    fetched: list[Path] = []
    there = sorted((hub.repositories["ovround-tests/bare"] / "data").glob("train*"))
    monkeypatch.setattr(
        "ovround.texts.documents.data_set_files",
        lambda source, splits: (fetched.append(path) or path for path in there),
    )
    options = ConvertOptions(calibration=(Path("ovround-tests/bare"),), nsamples=8, seqlen=16)
    calibration = calibrate(load_tokenizer(folder), options, 256, 320)
    assert calibration.samples.shape == (9, 16)
    assert len(fetched) == 1
    again = calibrate(load_tokenizer(folder), options, 256, 320)
    assert np.array_equal(calibration.samples, again.samples)


def test_bits_are_chosen_on_chats_too(tmp_path: Path) -> None:
    folder = write_checkpoint(tmp_path / "model", tiny_config())
    (folder / "chat_template.jinja").write_text("{% for message in messages %}{{ message['content'] }} {% endfor %}")
    path = lines(tmp_path / "a.jsonl", *[{"messages": CHAT}] * 60)
    options = ConvertOptions(
        group_size=32, recipe="rtn", budget=Budget(3.5, "bits"), calibration=(path,), nsamples=4, seqlen=8
    )
    job = prepare(str(folder), tmp_path / "out", options)
    assert job.budget is not None
    assert job.budget.samples.shape == (4, 8)
