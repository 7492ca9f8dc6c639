"""A Hugging Face Hub on this machine: what its client asks for to make a repository, commit to it and read from it.

Bound to 127.0.0.1; a client is sent there by HF_ENDPOINT. Repositories are kept in memory, every commit whole.
"""

from __future__ import annotations

import base64
import hashlib
import http.server
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from urllib.parse import unquote

_RESOLVE = re.compile(r"/(?P<repo>[^/]+/[^/]+)/resolve/(?P<revision>[^/]+)/(?P<path>.+)")
_TREE = re.compile(r"/api/models/(?P<repo>[^/]+/[^/]+)/tree/(?P<revision>[^/?]+)")
_INFO = re.compile(r"/api/models/(?P<repo>[^/]+/[^/]+)(?:/revision/(?P<revision>[^/?]+))?$")
_COMMIT = re.compile(r"/api/models/(?P<repo>[^/]+/[^/]+)/(?P<what>preupload|commit)/(?P<revision>[^/?]+)")


class Hub:
    """What is published.

    Attributes:
        commits: "owner/name" -> its commits in order, each with all files of that state.
        requests: every request, as "METHOD path".
    """

    def __init__(self) -> None:
        self.commits: dict[str, list[tuple[str, dict[str, bytes]]]] = {}
        self.requests: list[str] = []

    def publish(self, repo: str, files: dict[str, bytes]) -> str:
        """A commit with files on top of the newest -> its name."""
        kept = dict(self.commits[repo][-1][1]) if self.commits.get(repo) else {}
        kept |= files
        name = hashlib.sha1(json.dumps([len(self.commits.get(repo, [])), sorted(kept)]).encode()).hexdigest()
        self.commits.setdefault(repo, []).append((name, kept))
        return name

    def find(self, repo: str, revision: str | None) -> tuple[str, dict[str, bytes]] | None:
        """A state by the commit's name or "main"."""
        states = self.commits.get(repo)
        if not states:
            return None
        if revision in (None, "main"):
            return states[-1]
        return next((state for state in states if state[0] == revision), None)


@contextmanager
def serve_hub() -> Iterator[tuple[str, Hub]]:
    """The address, and what is there."""
    hub = Hub()

    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *args: object) -> None:
            pass

        def do_GET(self) -> None:
            self._answer(with_body=True)

        def do_HEAD(self) -> None:
            self._answer(with_body=False)

        def do_POST(self) -> None:
            path = unquote(self.path)
            hub.requests.append(f"POST {path}")
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            if path == "/api/repos/create":
                asked = json.loads(body)
                repo = f"{asked.get('organization') or 'me'}/{asked['name']}"
                hub.commits.setdefault(repo, [])
                return self._json({"url": f"{address}/{repo}", "name": repo, "id": repo})
            if path == "/api/validate-yaml":
                return self._json({"errors": [], "warnings": []})
            found = _COMMIT.match(path)
            if found is None:
                return self._missing("EntryNotFound")
            if found["what"] == "preupload":
                files = [
                    {"path": f["path"], "uploadMode": "regular", "shouldIgnore": False}
                    for f in json.loads(body)["files"]
                ]
                return self._json({"files": files})
            lines = [json.loads(line) for line in body.splitlines() if line.strip()]
            added = {x["value"]["path"]: base64.b64decode(x["value"]["content"]) for x in lines if x["key"] == "file"}
            name = hub.publish(found["repo"], added)
            return self._json({"success": True, "commitUrl": f"{address}/{found['repo']}/commit/{name}",
                               "commitOid": name})  # fmt: skip

        def _answer(self, *, with_body: bool) -> None:
            path = unquote(self.path)
            hub.requests.append(f"{self.command} {path}")
            if found := _RESOLVE.match(path):
                state = hub.find(found["repo"], found["revision"])
                if state is None:
                    return self._missing("RepoNotFound")
                if (content := state[1].get(found["path"])) is None:
                    return self._missing("EntryNotFound", commit=state[0])
                return self._bytes(content, "application/octet-stream", with_body, commit=state[0])
            if (found := _TREE.match(path)) and (state := hub.find(found["repo"], found["revision"])):
                return self._json(
                    [
                        {"type": "file", "path": name, "size": len(content), "oid": hashlib.sha1(content).hexdigest()}
                        for name, content in sorted(state[1].items())
                    ]
                )
            if (found := _INFO.match(path.partition("?")[0])) and (state := hub.find(found["repo"], found["revision"])):
                siblings = [{"rfilename": name} for name in sorted(state[1])]
                return self._json({"id": found["repo"], "modelId": found["repo"], "sha": state[0], "private": False,
                                   "siblings": siblings, "tags": []})  # fmt: skip
            return self._missing("RepoNotFound")

        def _json(self, value: object) -> None:
            self._bytes(json.dumps(value).encode(), "application/json", True)

        def _bytes(self, content: bytes, kind: str, with_body: bool, commit: str = "") -> None:
            self.send_response(200)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(content)))
            self.send_header("ETag", f'"{hashlib.sha256(content).hexdigest()}"')
            if commit:
                self.send_header("X-Repo-Commit", commit)
            self.end_headers()
            if with_body:
                self.wfile.write(content)

        def _missing(self, code: str, commit: str = "") -> None:
            self.send_response(404)
            self.send_header("X-Error-Code", code)
            self.send_header("Content-Length", "0")
            if commit:
                self.send_header("X-Repo-Commit", commit)
            self.end_headers()

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        address = f"http://127.0.0.1:{server.server_port}"
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield address, hub
        server.shutdown()
