"""A hub of one's own on 127.0.0.1: as much of Hugging Face's HTTP interface as pulling needs."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote, urlsplit


@dataclass
class Repository:
    """A repository: contents by commit, and names of commits."""

    commits: dict[str, dict[str, bytes]] = field(default_factory=dict)
    refs: dict[str, str] = field(default_factory=dict)
    licence: dict[str, str] = field(default_factory=lambda: {"license": "cc-by-4.0"})
    gated: bool = False
    listed: dict[str, str] = field(default_factory=dict)  # sha256 that the listing claims


@dataclass(frozen=True)
class Request:
    """What the hub was asked."""

    method: str
    path: str
    token: str
    bytes_from: int | None


class FakeHub:
    """Repositories, faults to come, and what was asked so far.

    ``faults`` are taken one for each download: a number cuts it off after so many bytes,
    ``status`` answers with that status, ``no-ranges`` sends all whatever was asked for.
    """

    def __init__(self) -> None:
        self.repositories: dict[str, Repository] = {}
        self.members = {"good-token"}  # tokens that may have what is gated
        self.strangers = {"stranger-token"}  # valid, but may not
        self.faults: list[int | tuple[str, int] | str] = []
        self.requests: list[Request] = []
        self.broken = 0  # a status that everything is answered with
        self.portal = False  # a page for people, whatever is asked
        self.cdn = ""  # downloads are redirected there
        self.url = ""

    def publish(self, repo: str, commit: str, files: dict[str, bytes], *refs: str) -> Repository:
        """Add a commit; ``main`` is the latest."""
        repository = self.repositories.setdefault(repo, Repository())
        repository.commits[commit] = files
        repository.refs.update(dict.fromkeys(("main", *refs), commit))
        return repository

    @property
    def downloads(self) -> list[Request]:
        """Those that asked for content."""
        return [
            request
            for request in self.requests
            if request.method == "GET" and not request.path.startswith("/api/")
        ]

    @contextmanager
    def running(self) -> Iterator[FakeHub]:
        """Serve while the context lasts."""

        class Handler(_Handler):
            hub = self

        server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        self.url = f"http://127.0.0.1:{server.server_port}"
        try:
            yield self
        finally:
            server.shutdown()
            thread.join()
            server.server_close()  # joins the threads of its connections


class _Handler(BaseHTTPRequestHandler):
    hub: FakeHub

    def do_HEAD(self) -> None:
        self._answer()

    def do_GET(self) -> None:
        self._answer()

    def log_message(self, *_: object) -> None:
        pass

    def _answer(self) -> None:
        hub, path = self.hub, unquote(urlsplit(self.path).path)
        token = (self.headers.get("Authorization") or "").removeprefix("Bearer ")
        wanted = self.headers.get("Range")
        start = int(wanted.removeprefix("bytes=").rstrip("-")) if wanted else None
        hub.requests.append(Request(self.command, path, token, start))
        if hub.portal:
            return self._send(200, b"<html>Please log in to the hotel's network</html>")
        if hub.broken:
            return self._send(hub.broken, b"")
        if token and token not in hub.members | hub.strangers:
            message = "Invalid credentials in Authorization header"
            return self._send(401, b"", {"X-Error-Message": message})
        if path.startswith("/api/models/"):
            repo, _, revision = path.removeprefix("/api/models/").partition("/revision/")
            name = ""
        else:
            repo, _, rest = path.removeprefix("/").partition("/resolve/")
            revision, _, name = rest.partition("/")
        repository = hub.repositories.get(repo)
        if repository is None:
            status = 404 if token else 401
            return self._send(status, b"", {"X-Error-Code": "RepoNotFound"})
        commit = repository.refs.get(revision or "main", revision)
        if commit not in repository.commits:
            return self._send(404, b"", {"X-Error-Code": "RevisionNotFound"})
        if not name:
            return self._describe(repo, repository, commit)
        if repository.gated and token not in hub.members:
            status = 403 if token else 401
            return self._send(status, b"", {"X-Error-Code": "GatedRepo"})
        content = repository.commits[commit].get(name)
        if content is None:
            return self._send(404, b"", {"X-Error-Code": "EntryNotFound"})
        return self._content(content, commit, start)

    def _describe(self, repo: str, repository: Repository, commit: str) -> None:
        files = [
            {
                "rfilename": name,
                "size": len(content),
                "blobId": "0" * 40,
                "lfs": {
                    "sha256": repository.listed.get(name, sha256(content)),
                    "size": len(content),
                    "pointerSize": 130,
                },
            }
            for name, content in repository.commits[commit].items()
        ]
        document = {"id": repo, "sha": commit, "siblings": files, "cardData": repository.licence}
        self._send(200, json.dumps(document).encode(), {"Content-Type": "application/json"})

    def _content(self, content: bytes, commit: str, start: int | None) -> None:
        headers = {"X-Repo-Commit": commit, "ETag": f'"{sha256(content)}"'}
        if self.command == "HEAD":
            return self._send(200, content, headers)
        if self.hub.cdn and not self.path.endswith("?cdn"):
            return self._send(302, b"", {"Location": f"{self.hub.cdn}{self.path}?cdn"})
        fault = self.hub.faults.pop(0) if self.hub.faults else ""
        if isinstance(fault, tuple):
            return self._send(fault[1], b"")
        if start is not None and fault != "no-ranges":
            if start >= len(content):
                return self._send(416, b"")
            headers["Content-Range"] = f"bytes {start}-{len(content) - 1}/{len(content)}"
            return self._send(206, content[start:], headers, cut=fault)
        return self._send(200, content, headers, cut=fault)

    def _send(
        self, status: int, body: bytes, headers: dict[str, str] | None = None, cut: object = ""
    ) -> None:
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **(headers or {})}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body[:cut] if isinstance(cut, int) else body)
        if isinstance(cut, int):
            self.close_connection = True


def sha256(content: bytes) -> str:
    """In hexadecimal."""
    return hashlib.sha256(content).hexdigest()
