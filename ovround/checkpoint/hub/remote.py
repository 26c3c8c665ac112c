"""Parts of files on the hub, read without downloading the files: a configuration, and the headers of weights.

Headers are written into sparse files of the weights' own sizes. To what opens a checkpoint they look like the whole thing.
"""

from __future__ import annotations

import atexit
import shutil
import struct
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path, PurePosixPath

from ovround.checkpoint.files.weight_files import INDEX, PICKLED_INDEX, SETTINGS
from ovround.checkpoint.gguf.header import read_header
from ovround.checkpoint.gguf.hub_file import parts_of_tag
from ovround.checkpoint.hub.choice import choose_files
from ovround.checkpoint.hub.listing import HubFile, Repository
from ovround.checkpoint.hub.name import HubName
from ovround.checkpoint.hub.refusal import library_errors, refusal
from ovround.errors import CheckpointError, HeaderError
from ovround.limits import LIMITS

_READ = (
    "config.json",
    "adapter_config.json",
    INDEX,
    PICKLED_INDEX,
    SETTINGS,
    "quant_config.json",
    "hf_quant_config.json",
)
_LENGTH_BYTES = 8  # a safetensors file begins with the length of its header
_FIRST_BYTES = 1 << 17
_AT_ONCE = 8


def read_remote(name: HubName, path: str, size_bytes: int | None = None, commit: str | None = None) -> bytes | None:
    """The first `size_bytes` of a file, by default all of it; None where the repository has no such file.

    Raises CheckpointError where the hub does not give it, and where it is larger than a JSON file may be.
    """
    from huggingface_hub import hf_hub_url
    from huggingface_hub.errors import EntryNotFoundError
    from huggingface_hub.utils import (  # type: ignore[attr-defined]  # public all the same
        build_hf_headers,
        get_session,
        hf_raise_for_status,
    )

    most = LIMITS.json_bytes if size_bytes is None else size_bytes
    headers = build_hf_headers() | ({} if size_bytes is None else {"Range": f"bytes=0-{size_bytes - 1}"})
    content = bytearray()
    try:
        url = hf_hub_url(name.repository, path, revision=commit or name.revision)
        with get_session().stream("GET", url, headers=headers) as response:
            hf_raise_for_status(response)
            for piece in response.iter_bytes():
                content += piece
                if len(content) > most:
                    break
    except EntryNotFoundError:
        return None
    except library_errors() as error:
        raise refusal(name, error) from error
    if len(content) > most and size_bytes is None:
        raise CheckpointError(f"`{path}` of `{name}` is larger than {most} bytes")
    return bytes(content[:most])


def read_headers(repository: Repository) -> Path:
    """A folder that lasts as long as the process, or a GGUF file in it: all that is known of a model before its weights come.

    Weights of torch have no header that could be read so: of those the configuration alone is there. Raises CheckpointError
    as `choose_files` does, and where the hub does not give it.
    """
    name = repository.name
    wanted = [file for file in repository.select(choose_files(name, repository.paths)) if _has_header(file.path)]
    folder = Path(tempfile.mkdtemp(prefix="ovround-headers-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    with ThreadPoolExecutor(_AT_ONCE) as pool:
        list(pool.map(lambda file: _write_header(repository, file, folder), wanted))
    if name.tag is None:
        return folder
    return folder / PurePosixPath(parts_of_tag(repository.paths, name.repository, name.tag)[0]).name


def _has_header(path: str) -> bool:
    return path in _READ or path.endswith((".safetensors", ".gguf"))


def _write_header(repository: Repository, file: HubFile, folder: Path) -> None:
    path = folder / PurePosixPath(file.path).name
    if path.suffix == ".gguf":
        _write_gguf(repository, file, path)
        return
    size = None if path.suffix == ".json" else _FIRST_BYTES
    content = _part(repository, file, size)
    if size is not None and len(content) >= _LENGTH_BYTES:
        length = _LENGTH_BYTES + struct.unpack("<Q", content[:_LENGTH_BYTES])[0]
        if len(content) < length <= file.size_bytes:
            content = _part(repository, file, length)
    _write_sparse(path, content, file.size_bytes if size is not None else len(content))


def _write_gguf(repository: Repository, file: HubFile, path: Path) -> None:
    """The header of a GGUF file, whose length nothing states: ever more of it, until it can be read."""
    size = 8 * _FIRST_BYTES
    while True:
        content = _part(repository, file, min(size, file.size_bytes))
        _write_sparse(path, content, file.size_bytes)
        try:
            header = read_header(path)
        except HeaderError:
            if len(content) >= min(file.size_bytes, LIMITS.gguf_header_bytes):
                raise
        else:
            first = min((info.offset for info in header.tensors.values()), default=0)
            if first <= len(content):
                return
        size *= 4


def _part(repository: Repository, file: HubFile, size_bytes: int | None) -> bytes:
    content = read_remote(repository.name, file.path, size_bytes, repository.commit)
    if content is None:
        raise CheckpointError(f"`{repository.name}` has no `{file.path}` any more", hint="run it again")
    return content


def _write_sparse(path: Path, content: bytes, size_bytes: int) -> None:
    with path.open("wb") as file:
        file.write(content)
        file.truncate(size_bytes)
