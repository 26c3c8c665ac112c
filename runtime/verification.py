"""Whether a folder's bytes are those that were written, found while it is loaded.

No engine notices a changed weight: the file has its size, every number is a number, and the text is a little worse. The
manifest has each file's sha256. Small files are compared at once; the large ones in threads beside the loading, which waits
for the disk or for kernels to be compiled (`hashlib` lets other threads run).
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

from ovround.artifact.manifest import Manifest, check_file, check_files
from ovround.errors import ArtifactError

_LARGE_BYTES = 32 << 20
_WEIGHTS = ("openvino_model.bin", "model.onnx.data")
_THREADS = 2


@contextlib.contextmanager
def verification(folder: Path, manifest: Manifest) -> Iterator[None]:
    """Compare what the manifest lists: small files and graphs on entry, large weights by the end; raises ArtifactError.

    A failure inside is raised as itself, unless a changed file explains it.
    """
    large = {name for name, record in manifest.files.items() if record.size_bytes >= _LARGE_BYTES and name in _WEIGHTS}
    check_files(folder, manifest, contents=True, names=manifest.files.keys() - large)
    if not large:
        yield
        return
    given_up = threading.Event()
    with ThreadPoolExecutor(_THREADS, thread_name_prefix="ovround-verify") as threads:
        checks = [
            threads.submit(check_file, folder, name, manifest.files[name], stop=given_up.is_set)
            for name in sorted(large)
        ]
        try:
            yield
        except Exception:
            _first_difference(checks)
            raise
        except BaseException:
            given_up.set()
            raise
        _first_difference(checks)


def _first_difference(checks: list[Future[None]]) -> None:
    for check in checks:
        error = check.exception()
        if isinstance(error, ArtifactError):
            raise error
        if error is not None:
            raise ArtifactError(f"a file could not be compared with the manifest: {error}") from error
