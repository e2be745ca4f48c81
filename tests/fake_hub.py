"""A Hugging Face hub on the loopback: repositories of files, tokens, commits, and a way to fail."""

import base64
import contextlib
import hashlib
import http.server
import json
import threading
from collections.abc import Iterator
from typing import Any

TOKEN = "hf_may_write"
READ_ONLY = "hf_may_read"


class Hub:
    """The state of the server.

    Attributes:
      files: of each repository, by path, as they are now.
      private: the repositories that only a token reads.
      gated: those that need somebody's consent.
      short: paths of which half is sent, as if it were all.
      broken: whether every request is answered by an error of the server.
      asked: the paths of all requests.
    """

    def __init__(self) -> None:
        self.files: dict[str, dict[str, bytes]] = {}
        self.private: set[str] = set()
        self.gated: set[str] = set()
        self.short: set[str] = set()
        self.broken = False
        self.asked: list[str] = []
        self.address = ""

    def sha(self, repository: str) -> str:
        """The commit, which follows from what is in it."""
        digest = hashlib.sha1(repository.encode())
        for path, content in sorted(self.files[repository].items()):
            digest.update(path.encode() + content)
        return digest.hexdigest()

    def tree(self, repository: str) -> list[dict[str, Any]]:
        return [
            {"type": "file", "path": path, "size": len(content), "oid": _oid(content)}
            for path, content in self.files[repository].items()
        ]


def _oid(content: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


class Handler(http.server.BaseHTTPRequestHandler):
    hub: Hub
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: Any) -> None:
        pass

    def do_GET(self) -> None:
        self.handle_path(None)

    do_HEAD = do_GET

    def do_POST(self) -> None:
        self.handle_path(self.rfile.read(int(self.headers.get("Content-Length", 0))))

    def handle_path(self, body: bytes | None) -> None:
        hub, path = self.hub, self.path.split("?")[0]
        hub.asked.append(path)
        words = path.strip("/").split("/")
        if hub.broken:
            return self.answer({"error": "Internal Error"}, 500)
        token = (self.headers.get("Authorization") or "").removeprefix("Bearer ")
        if path == "/api/validate-yaml":
            return self.answer({})
        if path == "/api/repos/create":
            return self.create(json.loads(body or b"{}"), token)
        if words[:2] == ["api", "models"]:
            words = words[2:]
        repository, words = "/".join(words[:2]), words[2:]
        known = repository in hub.files and (token or repository not in hub.private)
        if not known:
            return self.refuse(404 if token else 401, "RepoNotFound")
        if repository in hub.gated and token != TOKEN:
            return self.refuse(403, "GatedRepo")
        if body is not None and token != TOKEN:
            return self.refuse(403, "Forbidden")
        if len(words) > 1 and words[1] not in ("main", hub.sha(repository)):
            return self.refuse(404, "RevisionNotFound")
        kind = words[0] if words else "revision"
        if kind == "revision":
            about = {"id": repository, "sha": hub.sha(repository), "siblings": [], "tags": []}
            return self.answer(about | {"private": repository in hub.private})
        if kind == "tree":
            return self.answer(hub.tree(repository))
        if kind == "preupload":
            given = json.loads(body or b"")["files"]
            modes = {"uploadMode": "regular", "shouldIgnore": False}
            return self.answer({"files": [{"path": each["path"]} | modes for each in given]})
        if kind == "commit":
            return self.commit(repository, body or b"")
        return self.send(repository, "/".join(words[2:]))

    def create(self, given: dict[str, Any], token: str) -> None:
        hub, repository = self.hub, f"{given['organization']}/{given['name']}"
        if token != TOKEN:
            return self.answer({"error": "Unauthorized"}, 401 if not token else 403)
        if repository in hub.files:
            said = {"error": "You already created this model repo"}
            return self.answer(said | {"url": f"{hub.address}/{repository}"}, 409)
        hub.files[repository] = {".gitattributes": b""}
        if given.get("visibility") == "private" or given.get("private"):
            hub.private.add(repository)
        return self.answer({"url": f"{hub.address}/{repository}"})

    def commit(self, repository: str, body: bytes) -> None:
        files = self.hub.files[repository]
        for line in map(json.loads, body.splitlines()):
            value = line["value"]
            if line["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif line["key"] == "deletedFile":
                del files[value["path"]]
        sha = self.hub.sha(repository)
        url = f"{self.hub.address}/{repository}/commit/{sha}"
        self.answer({"commitUrl": url, "commitOid": sha})

    def send(self, repository: str, path: str) -> None:
        content = self.hub.files[repository].get(path)
        if content is None:
            return self.refuse(404, "EntryNotFound")
        headers = {"ETag": f'"{_oid(content)}"', "X-Repo-Commit": self.hub.sha(repository)}
        if path in self.hub.short and self.command == "GET":
            content = content[: len(content) // 2]
        return self.reply(200, content, headers)

    def refuse(self, status: int, code: str) -> None:
        self.reply(status, b"{}", {"X-Error-Code": code, "X-Error-Message": code})

    def answer(self, value: Any, status: int = 200) -> None:
        self.reply(status, json.dumps(value).encode(), {"Content-Type": "application/json"})

    def reply(self, status: int, content: bytes, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in (headers | {"Content-Length": str(len(content))}).items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)


@contextlib.contextmanager
def running(hub: Hub | None = None, port: int = 0) -> Iterator[Hub]:
    """The hub, listening at `address` until the block ends."""
    hub = hub or Hub()
    handler = type("Handler", (Handler,), {"hub": hub})
    server = http.server.ThreadingHTTPServer(("127.0.0.1", port), handler)
    hub.address = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
