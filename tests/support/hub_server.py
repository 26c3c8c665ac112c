"""A server that speaks as much of the hub's protocol as downloads use: commits, redirects, ranges, etags, refusals."""

from __future__ import annotations

import functools
import hashlib
import io
import json
import re
import threading
import time
from collections.abc import Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import TracebackType
from typing import BinaryIO
from urllib.parse import unquote, urlsplit

_LARGE_BYTES = 1 << 12  # files from here on are redirected, as the hub does with weights
_PIECE_BYTES = 1 << 20


def _digest(path: Path, kind: str, before: bytes = b"") -> str:
    """The hash of a file after these bytes; a file that has not changed is read once, for it may be a gigabyte."""
    status = path.stat()
    return _digest_of(path, kind, before, status.st_size, status.st_mtime_ns, status.st_ino)


@functools.cache
def _digest_of(path: Path, kind: str, before: bytes, *state: int) -> str:
    digest = hashlib.new(kind, before, usedforsecurity=False)
    with path.open("rb") as file:
        while piece := file.read(_PIECE_BYTES):
            digest.update(piece)
    return digest.hexdigest()


class HubServer:
    """Serves `repositories`, folders by name; `url` for HF_ENDPOINT. What was asked for is in `requests`.

    `refused` names repositories with the status and error code that they answer with, `gated` those that are described and
    not given, `private` those that are not there; who has one of `members`, tokens, is given both. `cut` names files whose
    answer breaks off after so many bytes, once; `stalled` files whose answer stops after so many bytes, and goes on when they
    are taken out; `stated_sizes` and `stated_digests` what is said of files that is not so.
    """

    def __init__(self, repositories: Mapping[str, Path]) -> None:
        self.repositories = dict(repositories)
        self.refused: dict[str, tuple[int, str]] = {}
        self.gated: set[str] = set()
        self.private: set[str] = set()
        self.members: set[str] = set()
        self.tokens: set[str] = set()  # where there are any, another one is refused
        self.stalled: dict[str, int] = {}
        self.stated_digests: dict[str, str] = {}
        self.cut: dict[str, int] = {}
        self.stated_sizes: dict[str, int] = {}
        self.requests: list[str] = []
        hub = self

        class Handler(_Handler):
            server_hub = hub

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        port = self._server.server_address[1]
        self.url, self.blobs_url = (
            f"http://127.0.0.1:{port}",
            f"http://localhost:{port}",
        )  # files come from another host

    def commit(self, name: str) -> str:
        """The commit of a repository: 40 hexadecimal digits of its contents."""
        folder = self.repositories[name]
        digest = hashlib.sha1(usedforsecurity=False)
        for path in sorted(folder.rglob("*")):
            if path.is_file():
                digest.update(path.name.encode() + _digest(path, "sha1").encode())
        return digest.hexdigest()

    def size(self, name: str, file: str) -> int:
        """Bytes of a file as they are stated."""
        return self.stated_sizes.get(file, (self.repositories[name] / file).stat().st_size)

    def digest(self, name: str, file: str) -> str:
        """The sha256 of a large file, git's hash of any other, as they are stated."""
        if file in self.stated_digests:
            return self.stated_digests[file]
        path = self.repositories[name] / file
        size = path.stat().st_size
        return _digest(path, "sha256") if size >= _LARGE_BYTES else _digest(path, "sha1", f"blob {size}\0".encode())

    def environment(self, home: Path) -> dict[str, str]:
        """The variables of a process that downloads from here into `home`."""
        return {
            "HF_ENDPOINT": self.url,
            "HF_HUB_OFFLINE": "0",  # tests/measure/test_lm_eval_harness.py sets it for the process
            "HF_HOME": str(home),
            "HF_HUB_DISABLE_XET": "1",
            "HF_HUB_DISABLE_TELEMETRY": "1",
        }

    def __enter__(self) -> HubServer:
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.shutdown()
        self._server.server_close()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server_hub: HubServer

    def log_message(self, format: str, *values: object) -> None:  # noqa: A002  the base class calls it so
        pass

    def do_HEAD(self) -> None:
        self._answer(body=False)

    def do_GET(self) -> None:
        self._answer(body=True)

    def _answer(self, *, body: bool) -> None:
        hub, path = self.server_hub, unquote(urlsplit(self.path).path)
        hub.requests.append(f"{self.command} {path}")
        words = re.sub(r"^/api/(models|datasets)/|^/datasets/", "", path).strip("/").split("/")
        name = "/".join(words[:2])
        token = self.headers.get("Authorization", "").removeprefix("Bearer ")
        if token and hub.tokens and token not in hub.tokens:
            self._refuse(401, "", "Invalid credentials in Authorization header")
        elif name in hub.refused:
            self._refuse(*hub.refused[name])
        elif (
            name in hub.private and token not in hub.members and words[2:3] != ["blob"]
        ):  # which come from another host
            self._refuse(401, "RepoNotFound")
        elif name in hub.gated and token not in hub.members and not path.startswith("/api/") and words[2] != "blob":
            self._refuse(403, "GatedRepo")
        elif name not in hub.repositories:
            self._refuse(404 if self.headers.get("Authorization") else 401, "RepoNotFound")
        elif path.startswith("/api/"):
            self._describe(name, words[2:], body=body)
        elif words[2] in ("resolve", "blob"):
            self._give(name, words[3], "/".join(words[4:]), body=body, stored=words[2] == "blob")
        else:
            self._refuse(404, "EntryNotFound")

    def _describe(self, name: str, words: list[str], *, body: bool) -> None:
        hub = self.server_hub
        commit, folder = hub.commit(name), hub.repositories[name]
        files = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
        if words[:1] == ["revision"] and words[1] not in ("main", commit):
            self._refuse(404, "RevisionNotFound")
        elif words[:1] == ["tree"]:
            rows = [{"type": "file", "path": file, **self._entry(name, file, "oid")} for file in files]
            self._send_json(rows, body=body)
        else:
            siblings = [{"rfilename": file, **self._entry(name, file, "sha256")} for file in files]
            document = {"id": name, "modelId": name, "sha": commit, "private": False, "siblings": siblings, "tags": []}
            self._send_json(document, body=body)

    def _entry(self, name: str, file: str, hash_key: str) -> dict[str, object]:
        """A file in a list of files; the hash of a large one is called otherwise in each of the two kinds of lists."""
        hub, size = self.server_hub, (self.server_hub.repositories[name] / file).stat().st_size
        entry: dict[str, object] = {"size": hub.size(name, file)}
        digest = hub.digest(name, file)
        if size < _LARGE_BYTES:
            return entry | {"oid" if hash_key == "oid" else "blobId": digest}
        large = {hash_key: digest, "size": hub.size(name, file), "pointerSize": 134}
        return entry | {"oid" if hash_key == "oid" else "blobId": "0" * 40, "lfs": large}

    def _give(self, name: str, revision: str, file: str, *, body: bool, stored: bool) -> None:
        hub = self.server_hub
        path, commit = hub.repositories[name] / file, hub.commit(name)
        if revision not in ("main", commit):
            self._refuse(404, "RevisionNotFound")
            return
        if not path.is_file():
            self._refuse(404, "EntryNotFound")
            return
        size = path.stat().st_size
        etag = {"ETag": f'"{hub.digest(name, file)}"', "X-Repo-Commit": commit, "Accept-Ranges": "bytes"}
        if size >= _LARGE_BYTES and not stored:
            linked = {"X-Linked-Size": str(hub.size(name, file)), "X-Linked-Etag": etag["ETag"]}
            self.send_response(302)
            for key, value in {**etag, **linked, "Location": f"{hub.blobs_url}/{name}/blob/{commit}/{file}"}.items():
                self.send_header(key, value)
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        cut = hub.cut.pop(file, None) if body else None
        with path.open("rb") as content:
            self._send(
                content, size, body=body, headers=etag, cut=cut, stalled=file if body and file in hub.stalled else ""
            )

    def _send_json(self, value: object, *, body: bool) -> None:
        content = json.dumps(value).encode()
        self._send(io.BytesIO(content), len(content), body=body)

    def _send(
        self, content: BinaryIO, size: int, *, body: bool, headers: Mapping[str, str] | None = None, cut: int | None = None,
        stalled: str = "",
    ) -> None:  # fmt: skip
        wanted = self.headers.get("Range", "")
        first, _, last = wanted.removeprefix("bytes=").partition("-")
        start = int(first) if first else 0
        end = min(int(last) + 1, size) if last else size
        self.send_response(206 if wanted else 200)
        if wanted:
            self.send_header("Content-Range", f"bytes {start}-{end - 1}/{size}")
        for key, value in (headers or {}).items():
            self.send_header(key, value)
        self.send_header("Content-Length", str(end - start))
        self.end_headers()
        if not body:
            return
        if stalled:
            at = max(self.server_hub.stalled[stalled], start)
            self._copy(content, start, at)
            while stalled in self.server_hub.stalled:
                time.sleep(0.02)
            start = at
        self._copy(content, start, end if cut is None else min(start + cut, end))
        if cut is not None:
            self.close_connection = True

    def _copy(self, content: BinaryIO, start: int, end: int) -> None:
        content.seek(start)
        while start < end and (piece := content.read(min(_PIECE_BYTES, end - start))):
            self.wfile.write(piece)
            start += len(piece)

    def _refuse(self, status: int, code: str, message: str = "") -> None:
        self.send_response(status)
        if code:
            self.send_header("X-Error-Code", code)
        self.send_header("X-Error-Message", message or code)
        self.send_header("Content-Length", "0")
        self.end_headers()
