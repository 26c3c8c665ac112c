"""Comparison of a folder's bytes with its manifest, while the model is loaded.

No engine notices a changed weight: the file size is right, every number is finite, and the text is slightly worse. The
manifest has each file's sha256. Small files are compared first. Threads compare the large ones during the loading, which waits
for the disk and for kernel compilation (`hashlib` releases the GIL).
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
    """Compare the listed files: small ones and graphs on entry, large weights until exit; raises ArtifactError.

    An exception within the block is raised unchanged, unless a changed file explains it.
    """
    large = {name for name, record in manifest.files.items() if record.size_bytes >= _LARGE_BYTES and name in _WEIGHTS}
    check_files(folder, manifest, contents=True, names=manifest.files.keys() - large)
    if not large:
        yield
        return
    cancelled = threading.Event()
    with ThreadPoolExecutor(_THREADS, thread_name_prefix="ovround-verify") as threads:
        checks = [
            threads.submit(check_file, folder, name, manifest.files[name], stop=cancelled.is_set)
            for name in sorted(large)
        ]
        try:
            yield
        except Exception:
            _raise_first_difference(checks)
            raise
        except BaseException:
            cancelled.set()
            raise
        _raise_first_difference(checks)


def _raise_first_difference(checks: list[Future[None]]) -> None:
    for check in checks:
        error = check.exception()
        if isinstance(error, ArtifactError):
            raise error
        if error is not None:
            raise ArtifactError(f"a file could not be compared with the manifest: {error}") from error
