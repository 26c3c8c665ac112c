"""A cut of power at any moment of a conversion: nothing torn is taken for whole, and no finished block is lost.

The work is recorded once; then what a disk may hold after every prefix of the record is laid out (`power_cut`) and read.
"""

from __future__ import annotations

import itertools
import json
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from checkpoint_writer import tiny_config, write_checkpoint
from failing_steps import contents
from mutations import SCALE
from power_cut import ROOT, Bytes, Event, Names, Record, Recorder, Sync, lay_out, states

from ovround.artifact.manifest import MANIFEST
from ovround.conversion.convert import convert, prepare
from ovround.errors import ArtifactError, OvroundError, ResumeError
from ovround.options.convert_options import ConvertOptions
from ovround.quant.block_store import BlockStore, working_folder
from ovround.runtime.engines import verified

pytestmark = pytest.mark.slow

BLOCKS, OUT, EACH = 2, "new/out", 2
ROUNDED = ConvertOptions(formats=("onnx",), recipe="rtn", group_size=32)


@pytest.fixture(scope="module")
def recorder() -> Recorder:
    return Recorder()


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_checkpoint(tmp_path_factory.mktemp("source") / "tiny", tiny_config(num_hidden_layers=BLOCKS))


@pytest.fixture(scope="module")
def options(text_file: Path) -> ConvertOptions:
    return ConvertOptions(
        formats=("openvino", "onnx"), group_size=32, bits=3, sym=False, iters=2, nsamples=8, seqlen=32, batch_size=4,
        calibration=(text_file,),
    )  # fmt: skip


@dataclass(frozen=True, slots=True)
class Cut:
    """One state of the disk, laid out at `place`."""

    place: Path
    events: int
    kind: str


def cuts(record: Record, tmp_path: Path, seed: int = 3, every: int = 1) -> Iterator[Cut]:
    place = tmp_path / "cut"
    for number, kind, tree in itertools.islice(states(record, EACH * SCALE, seed), 0, None, every):
        shutil.rmtree(place, ignore_errors=True)
        lay_out(tree, place)
        yield Cut(place, number, kind)


def accepted(folder: Path) -> bool:
    """Whether the runtime takes what lies there for a whole folder of ours; without a manifest it is somebody else's."""
    try:
        with verified(folder):
            return (folder / MANIFEST).exists()
    except ArtifactError:
        return False


@pytest.fixture(scope="module")
def tuned(
    recorder: Recorder, source: Path, options: ConvertOptions, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Record, dict[str, str]]:
    """The record of a tuned conversion into a folder whose parent is not there either, and the folder's contents."""
    place = tmp_path_factory.mktemp("record")
    with recorder.recording(place) as record:
        convert(source, place / OUT, options)
    return record, contents(place / OUT)


def test_a_conversion_is_there_whole_or_not_at_all(tuned: tuple[Record, dict[str, str]], tmp_path: Path) -> None:
    record, whole = tuned
    count = there = 0
    for cut in cuts(record, tmp_path):
        out = cut.place / OUT
        assert out.exists() or cut.events < len(record.events), "it ended well, and the folder is not there"
        assert not out.exists() or contents(out) == whole, cut
        scratch = [path.parent for path in cut.place.rglob(f"*.partial/**/{MANIFEST}")]
        assert not any(accepted(path) and contents(path) != contents_of(whole, path.name) for path in scratch), cut
        count, there = count + 1, there + out.exists()
    assert count >= 300
    assert 0 < there < count


def contents_of(whole: dict[str, str], target: str) -> dict[str, str]:
    return {name.partition("/")[2]: sha256 for name, sha256 in whole.items() if name.startswith(f"{target}/")}


@dataclass(frozen=True, slots=True)
class Blocks:
    """How many stored blocks were seen whole and how many were refused."""

    whole: int
    refused: int


def read_blocks(
    record: Record, source: Path, options: ConvertOptions, tmp_path: Path, certain: list[int] | None
) -> Blocks:
    """Read every stored block in every state; whole ones are equal, and the first `certain` ones after each event are there."""
    files = last_contents(record.events)
    store = BlockStore(tmp_path / "any", prepare(str(source), tmp_path / "x", options).checkpoint, BLOCKS)
    store.begin(json.loads(files["job.json"]))
    digests: dict[int, str] = {}
    whole = refused = 0
    for cut in cuts(record, tmp_path, seed=4, every=3):
        store.folder = working_folder(cut.place / OUT)
        for layer in () if (cut.place / OUT).exists() else range(BLOCKS):
            digest = ""
            try:
                digest = store.read(layer).digest() if store.has(layer) else ""
            except ResumeError:
                refused += 1
            assert digest or certain is None or layer >= certain[cut.events], (cut, "a finished block is lost")
            assert not digest or digests.setdefault(layer, digest) == digest, cut
            whole += bool(digest)
    return Blocks(whole, refused)


def test_finished_blocks_are_kept(
    tuned: tuple[Record, dict[str, str]], source: Path, options: ConvertOptions, tmp_path: Path
) -> None:
    record, _ = tuned
    certain = finished_blocks(record.events)
    assert certain[-1] == BLOCKS
    found = read_blocks(record, source, options, tmp_path, certain)
    assert found.whole > 100
    assert found.refused == 0, "a file has its name before its bytes are there"


def test_torn_blocks_are_not_trusted(
    tuned: tuple[Record, dict[str, str]], source: Path, options: ConvertOptions, tmp_path: Path
) -> None:
    found = read_blocks(careless(tuned[0]), source, options, tmp_path, None)
    assert found.refused > 20
    assert found.whole > 0


def careless(record: Record) -> Record:
    """The same work by writers that sync folders and forget the files."""
    files = {event.child for event in record.events if isinstance(event, Bytes)}
    kept = [event for event in record.events if not isinstance(event, Sync) or event.child not in files]
    return Record(record.start, kept)


def last_contents(events: list[Event]) -> dict[str, bytes]:
    """What each file held in the end, by its last name."""
    held = {event.child: event.content for event in events if isinstance(event, Bytes)}
    named = {event.child: event.new[1] for event in events if isinstance(event, Names) and event.new is not None}
    return {named[child]: content for child, content in held.items()}


def finished_blocks(events: list[Event]) -> list[int]:
    """How many blocks were certain after 0, 1, 2 ... events: their names had been synced."""
    names, finished = {ROOT: ""}, [0]
    for event in events:
        done = finished[-1]
        if isinstance(event, Names) and event.new is not None:
            names[event.child] = event.new[1]
        elif isinstance(event, Sync) and names[event.child] == working_folder(Path(OUT)).name:
            done = sum(f"tuned-{layer:05d}.safetensors" in names.values() for layer in range(BLOCKS))
        finished.append(done)
    return finished


def test_the_same_command_continues_after_a_cut(
    tuned: tuple[Record, dict[str, str]], source: Path, options: ConvertOptions, tmp_path: Path
) -> None:
    record, whole = tuned
    every = (len(record.events) * EACH * SCALE // (6 * min(SCALE, 10))) | 1
    for cut in cuts(record, tmp_path, seed=5, every=every):
        convert(source, cut.place / OUT, options)
        assert contents(cut.place / OUT) == whole, cut
        assert [path.name for path in (cut.place / OUT).parent.iterdir()] == ["out"]


def replaced(recorder: Recorder, source: Path, place: Path) -> tuple[Record, dict[str, str], dict[str, str]]:
    """The record of a conversion over an older one; the contents before and after."""
    place.mkdir()
    convert(source, place / "out", ROUNDED)
    before = contents(place / "out")
    with recorder.recording(place) as record:
        convert("demo", place / "out", ROUNDED)
    return record, before, contents(place / "out")


def test_a_folder_that_is_replaced_is_the_old_one_or_the_new_one(
    recorder: Recorder, source: Path, tmp_path: Path
) -> None:
    record, before, after = replaced(recorder, source, tmp_path / "record")
    seen = []
    for cut in cuts(record, tmp_path, seed=6):
        out = cut.place / "out"
        if not out.exists():  # between two renames; the next conversion, even one that is refused, puts it back
            with pytest.raises(OvroundError):
                convert(source / "config.json", out, ROUNDED)
        if not out.exists():
            (out,) = cut.place.glob(".out.*.partial/replaced")
        seen.append(contents(out))
        assert seen[-1] in (before, after), cut
        assert seen[-1] == after or cut.events < len(record.events)
    assert before in seen
    assert after in seen


def test_torn_folders_are_not_accepted(tuned: tuple[Record, dict[str, str]], tmp_path: Path) -> None:
    """What the first test would see if the writers forgot to sync files."""
    record, whole = tuned
    torn = 0
    for cut in cuts(careless(record), tmp_path, seed=7, every=3):
        for target in ("openvino", "onnx"):
            out = cut.place / OUT / target
            if out.exists() and contents(out) != contents_of(whole, target):
                torn += 1
                assert not accepted(out), cut
    assert torn > 5
