"""A server that speaks as much of the hub's protocol as downloads use: commits, redirects, ranges, etags, refusals."""

from __future__ import annotations

import hashlib
import json
import re
import threading
from collections.abc import Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import TracebackType
from urllib.parse import unquote, urlsplit

_LARGE_BYTES = 1 << 12  # files from here on are redirected, as the hub does with weights


class HubServer:
    """Serves `repositories`, folders by name; `url` for HF_ENDPOINT. What was asked for is in `requests`.

    `refused` names repositories with the status and error code that they answer with; `cut` files whose answer breaks off after
    so many bytes, once; `stated_sizes` files that are called larger than they are.
    """

    def __init__(self, repositories: Mapping[str, Path]) -> None:
        self.repositories = dict(repositories)
        self.refused: dict[str, tuple[int, str]] = {}
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
                digest.update(path.name.encode() + path.read_bytes())
        return digest.hexdigest()

    def size(self, name: str, file: str) -> int:
        """Bytes of a file as they are stated."""
        return self.stated_sizes.get(file, (self.repositories[name] / file).stat().st_size)

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
        if name in hub.refused:
            self._refuse(*hub.refused[name])
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
            rows = [
                {"type": "file", "path": file, "size": hub.size(name, file), "oid": _etag(folder / file)}
                for file in files
            ]
            self._send(json.dumps(rows).encode(), body=body)
        else:
            siblings = [{"rfilename": file, "size": hub.size(name, file)} for file in files]
            document = {"id": name, "modelId": name, "sha": commit, "private": False, "siblings": siblings, "tags": []}
            self._send(json.dumps(document).encode(), body=body)

    def _give(self, name: str, revision: str, file: str, *, body: bool, stored: bool) -> None:
        hub = self.server_hub
        path, commit = hub.repositories[name] / file, hub.commit(name)
        if revision not in ("main", commit):
            self._refuse(404, "RevisionNotFound")
            return
        if not path.is_file():
            self._refuse(404, "EntryNotFound")
            return
        content = path.read_bytes()
        etag = {"ETag": f'"{_etag(path)}"', "X-Repo-Commit": commit, "Accept-Ranges": "bytes"}
        if len(content) >= _LARGE_BYTES and not stored:
            linked = {"X-Linked-Size": str(hub.size(name, file)), "X-Linked-Etag": etag["ETag"]}
            self.send_response(302)
            for key, value in {**etag, **linked, "Location": f"{hub.blobs_url}/{name}/blob/{commit}/{file}"}.items():
                self.send_header(key, value)
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        self._send(content, body=body, headers=etag, cut=hub.cut.pop(file, None) if body else None)

    def _send(
        self, content: bytes, *, body: bool, headers: Mapping[str, str] | None = None, cut: int | None = None
    ) -> None:
        wanted = self.headers.get("Range", "")
        start = int(wanted.removeprefix("bytes=").partition("-")[0]) if wanted.startswith("bytes=") else 0
        self.send_response(206 if start else 200)
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
        for key, value in (headers or {}).items():
            self.send_header(key, value)
        self.send_header("Content-Length", str(len(content) - start))
        self.end_headers()
        if body:
            self.wfile.write(content[start:] if cut is None else content[start : start + cut])
        if cut is not None:
            self.close_connection = True

    def _refuse(self, status: int, code: str) -> None:
        self.send_response(status)
        self.send_header("X-Error-Code", code)
        self.send_header("X-Error-Message", code)
        self.send_header("Content-Length", "0")
        self.end_headers()


def _etag(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
