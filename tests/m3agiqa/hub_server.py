"""A server on loopback that speaks the part of the hub's protocol that downloads use."""

from __future__ import annotations

import hashlib
import json
import threading
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, ClassVar
from urllib.parse import unquote, urlsplit

#: Bytes; like the hub, larger files are "LFS" files with a SHA-256.
LFS_FROM = 1_000


def commit_of(files: dict[str, bytes]) -> str:
    return hashlib.sha1(repr(sorted(files.items())).encode()).hexdigest()


def etag_of(content: bytes) -> str:
    if len(content) >= LFS_FROM:
        return hashlib.sha256(content).hexdigest()
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


@dataclass
class Hub:
    """Repositories by name; every push adds a commit and moves the branch `main`."""

    endpoint: str = ""
    commits: dict[str, dict[str, dict[str, bytes]]] = field(default_factory=dict)
    branches: dict[str, dict[str, str]] = field(default_factory=dict)
    #: Status and error code with which the hub refuses a repository.
    refused: dict[str, tuple[int, str | None]] = field(default_factory=dict)
    #: File to how many more of its downloads break off half-way.
    cuts: dict[str, int] = field(default_factory=dict)
    #: File to other bytes of the same length that are sent instead.
    garbled: dict[str, bytes] = field(default_factory=dict)
    #: How many more requests are answered 503.
    outage: int = 0
    #: (method, path, Range header) of every request.
    seen: list[tuple[str, str, str | None]] = field(default_factory=list)

    def push(self, repo: str, files: dict[str, bytes]) -> str:
        commit = commit_of(files)
        self.commits.setdefault(repo, {})[commit] = files
        self.branches.setdefault(repo, {})["main"] = commit
        return commit

    def gets(self, name: str) -> list[str | None]:
        """The Range headers of the GETs of a file."""
        return [ranged for method, path, ranged in self.seen if method == "GET" and path.endswith("/" + name)]


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    hub: ClassVar[Hub]

    def do_GET(self) -> None:
        self._answer()

    def do_HEAD(self) -> None:
        self._answer()

    def log_message(self, *args: Any) -> None:
        pass

    def _answer(self) -> None:
        hub = self.hub
        path = unquote(urlsplit(self.path).path)
        hub.seen.append((self.command, path, self.headers.get("Range")))
        if hub.outage:
            hub.outage -= 1
            return self._send(503, b"busy")
        words = path.strip("/").split("/")
        if words[:2] == ["api", "models"]:
            return self._listing("/".join(words[2:4]), words[5] if len(words) > 5 else "main")
        if len(words) > 4 and words[2] == "resolve":
            return self._file("/".join(words[:2]), words[3], "/".join(words[4:]))
        return self._send(404, b"")

    def _find(self, repo: str, revision: str) -> tuple[str, dict[str, bytes]] | None:
        hub = self.hub
        if repo in hub.refused:
            status, code = hub.refused[repo]
            self._send(status, b"{}", {"X-Error-Code": code} if code else {})
        elif repo not in hub.commits:
            self._send(404, b"{}", {"X-Error-Code": "RepoNotFound"})
        else:
            commit = hub.branches[repo].get(revision, revision)
            if commit in hub.commits[repo]:
                return commit, hub.commits[repo][commit]
            self._send(404, b"{}", {"X-Error-Code": "RevisionNotFound"})
        return None

    def _listing(self, repo: str, revision: str) -> None:
        if found := self._find(repo, revision):
            commit, files = found
            self._send(
                200, json.dumps({"id": repo, "sha": commit, "siblings": [_sibling(*f) for f in files.items()]}).encode()
            )

    def _file(self, repo: str, revision: str, name: str) -> None:
        found = self._find(repo, revision)
        if found is None:
            return
        commit, files = found
        if name not in files:
            self._send(404, b"", {"X-Error-Code": "EntryNotFound", "X-Repo-Commit": commit})
            return
        content = self.hub.garbled.get(name, files[name])
        headers = {
            "ETag": f'"{etag_of(files[name])}"',
            "X-Linked-Etag": f'"{etag_of(files[name])}"',
            "X-Linked-Size": str(len(content)),
            "X-Repo-Commit": commit,
            "Accept-Ranges": "bytes",
        }
        start = 0
        if ranged := self.headers.get("Range"):
            start = int(ranged.removeprefix("bytes=").rstrip("-"))
            headers["Content-Range"] = f"bytes {start}-{len(content) - 1}/{len(content)}"
        cut = 0
        if self.command == "GET" and self.hub.cuts.get(name, 0) > 0:
            self.hub.cuts[name] -= 1
            cut = (len(content) - start) // 2
        self._send(206 if start else 200, content[start:], headers, cut=cut)

    def _send(self, status: int, body: bytes, headers: dict[str, str] | None = None, cut: int = 0) -> None:
        self.send_response(status)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command == "HEAD":
            return
        self.wfile.write(body[:-cut] if cut else body)
        if cut:
            self.close_connection = True


def _sibling(name: str, content: bytes) -> dict[str, Any]:
    sibling: dict[str, Any] = {
        "rfilename": name,
        "size": len(content),
        "blobId": hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest(),
    }
    if len(content) >= LFS_FROM:
        sibling["lfs"] = {"sha256": etag_of(content), "size": len(content), "pointerSize": 134}
    return sibling


class HubServer:
    """Serves `hub` for as long as the `with` block runs."""

    def __init__(self) -> None:
        self.hub = Hub()
        handler = type("Handler", (_Handler,), {"hub": self.hub})
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self.hub.endpoint = f"http://127.0.0.1:{self._server.server_port}"
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02})

    def __enter__(self) -> Hub:
        self._thread.start()
        return self.hub

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()
