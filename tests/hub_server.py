"""A small Hub on 127.0.0.1 for the tests: repositories, tokens, commits, LFS, revisions, pull requests, and faults on demand.

It speaks as much of the Hub's HTTP protocol as `huggingface_hub` uses to push and to open a repository, and keeps everything in
memory. A client is another process, started with what `HubServer.environment` gives, for `huggingface_hub` reads its endpoint
when it is imported.
"""

from __future__ import annotations

import base64
import hashlib
import json
import os
import re
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, unquote, urlsplit

LFS_SUFFIXES = (".bin", ".onnx", ".png", ".safetensors")
TOKENS = {"hf_of_me": "me", "hf_of_another": "another"}
"""Whose a token is. Everybody may write to the repositories of their own name, and read what is public or their own."""


@dataclass
class Repository:
    """A repository: commits by their id, each a tree of path to blob, and where each branch and tag stands."""

    owner: str
    private: bool
    commits: dict[str, dict[str, bytes]] = field(default_factory=dict)
    messages: dict[str, str] = field(default_factory=dict)
    refs: dict[str, str] = field(default_factory=dict)

    def commit(self, ref: str, tree: Mapping[str, bytes], message: str) -> str:
        """Add a commit and move a branch to it."""
        facts = [message, str(len(self.commits)), *(f"{path} {hashlib.sha1(tree[path]).hexdigest()}" for path in sorted(tree))]
        oid = hashlib.sha1("\n".join(facts).encode()).hexdigest()
        self.commits[oid], self.messages[oid], self.refs[ref] = dict(tree), message, oid
        return oid

    def find(self, revision: str) -> str | None:
        """The commit of a branch, a tag, or an id."""
        return self.refs.get(revision, revision if revision in self.commits else None)

    def files(self, revision: str = "main") -> dict[str, bytes]:
        """What stands at a revision."""
        return self.commits[self.refs.get(revision, revision)]


@dataclass
class Fault:
    """What goes wrong with the requests whose method and path fit: a status, or a line that is cut after some bytes.

    The first `after` requests that fit go well, the next `times` go wrong.
    """

    pattern: str
    status: int = 500
    times: int = 1
    cut_after: int | None = None
    after: int = 0
    seen: int = 0


class HubServer:
    """The server, as a context: `with HubServer() as hub: ...`."""

    def __init__(self) -> None:
        self.repositories: dict[str, Repository] = {}
        self.lfs: dict[str, bytes] = {}
        self.faults: list[Fault] = []
        self.requests: list[str] = []
        self.lock = threading.RLock()

    def __enter__(self) -> HubServer:
        hub = self

        class Handler(_Handler):
            server_hub = hub

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.endpoint = f"http://127.0.0.1:{self._server.server_address[1]}"
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def environment(self, home: Path, token: str | None = "hf_of_me") -> dict[str, str]:
        """The environment of a client whose caches stand in a folder of its own."""
        kept = {
            name: value
            for name, value in os.environ.items()
            if not name.startswith(("HF_", "HUGGING", "TRANSFORMERS_", "PYTHON")) and "proxy" not in name.lower()
        }
        given = {
            "HF_ENDPOINT": self.endpoint,
            "HF_HOME": str(home),
            "HF_HUB_DISABLE_XET": "1",
            "HF_HUB_DISABLE_PROGRESS_BARS": "1",
            "HF_HUB_DISABLE_TELEMETRY": "1",
            "OMP_NUM_THREADS": "1",
            "TOKENIZERS_PARALLELISM": "false",
        }
        return {**kept, **given, **({} if token is None else {"HF_TOKEN": token})}

    def fail(self, pattern: str, **fault: int | None) -> Fault:
        """Let requests go wrong whose `METHOD path` a pattern finds."""
        self.faults.append(Fault(pattern, **fault))
        return self.faults[-1]


class _Handler(BaseHTTPRequestHandler):
    server_hub: HubServer
    protocol_version = "HTTP/1.1"

    def log_message(self, *args: object) -> None:
        """Say nothing."""

    def do_GET(self) -> None:
        self._answer("GET")

    def do_HEAD(self) -> None:
        self._answer("HEAD")

    def do_POST(self) -> None:
        self._answer("POST")

    def do_PUT(self) -> None:
        self._answer("PUT")

    # What every request passes

    def _answer(self, method: str) -> None:
        hub = self.server_hub
        url = urlsplit(self.path)
        self.method, self.query = method, parse_qs(url.query)
        self.url_path = url.path
        with hub.lock:
            hub.requests.append(f"{method} {url.path}")
            fault = self._find_fault(f"{method} {url.path}")
        if fault is not None and fault.cut_after is not None:
            if method in ("PUT", "POST"):
                self.rfile.read(min(fault.cut_after, int(self.headers.get("Content-Length") or fault.cut_after)))
            self.close_connection = True
            self.connection.close()
            return
        body = self._read_body()
        if fault is not None:
            self._send_error(fault.status, None, f"made to fail with {fault.status}")
            return
        with hub.lock:
            self._route(body)

    def _find_fault(self, request: str) -> Fault | None:
        for fault in self.server_hub.faults:
            if re.search(fault.pattern, request):
                fault.seen += 1
                if fault.after < fault.seen <= fault.after + fault.times:
                    return fault
        return None

    def _read_body(self) -> bytes:
        if "chunked" in (self.headers.get("Transfer-Encoding") or ""):
            parts = []
            while size := int(self.rfile.readline().split(b";")[0], 16):
                parts.append(self.rfile.read(size))
                self.rfile.readline()
            self.rfile.readline()
            return b"".join(parts)
        return self.rfile.read(int(self.headers.get("Content-Length") or 0))

    def _send(self, status: int, body: bytes = b"", headers: Mapping[str, str] | None = None) -> None:
        self.send_response(status)
        headers = dict(headers or {})
        headers.setdefault("Content-Length", str(len(body)))
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        if self.method != "HEAD":
            self.wfile.write(body)

    def _send_json(self, value: object, status: int = 200, headers: Mapping[str, str] | None = None) -> None:
        self._send(status, json.dumps(value).encode(), {"Content-Type": "application/json", **(headers or {})})

    def _send_error(self, status: int, code: str | None, message: str, headers: Mapping[str, str] | None = None) -> None:
        told = {"X-Error-Message": message, **({} if code is None else {"X-Error-Code": code}), **(headers or {})}
        self._send_json({"error": message}, status, told)

    # Who may do what

    def _get_user(self) -> str | None:
        scheme, _, token = (self.headers.get("Authorization") or "").partition(" ")
        return TOKENS.get(token) if scheme == "Bearer" else None

    def _find_repository(self, name: str, *, writes: bool = False) -> Repository | None:
        """The repository, or `None` where an error has been sent."""
        user = self._get_user()
        if "Authorization" in self.headers and user is None:
            self._send_error(401, None, "Invalid credentials in Authorization header")
            return None
        repository = self.server_hub.repositories.get(name)
        if repository is None or (repository.private and user != repository.owner):
            self._send_error(401 if user is None else 404, "RepoNotFound", "Repository not found")
            return None
        if writes and user is None:
            self._send_error(401, None, "Invalid username or password.")
            return None
        if writes and user != repository.owner:
            self._send_error(403, None, f"You don't have the rights to write to {name}")
            return None
        return repository

    # Where a request goes

    def _route(self, body: bytes) -> None:
        path = self.url_path
        routes = (
            ("POST", r"/api/repos/create", self._create),
            ("POST", r"/api/validate-yaml", lambda body: self._send_json({"errors": [], "warnings": []})),
            ("GET", r"/api/whoami-v2", self._tell_who),
            ("POST", r"/api/models/([^/]+/[^/]+)/preupload/(.+)", self._preupload),
            ("POST", r"/api/models/([^/]+/[^/]+)/commit/(.+)", self._commit),
            ("POST", r"/api/models/([^/]+/[^/]+)/branch/(.+)", self._branch),
            ("POST", r"/api/models/([^/]+/[^/]+)/tag/(.+)", self._tag),
            ("POST", r"/api/models/([^/]+/[^/]+)/paths-info/(.+)", self._list_paths),
            ("GET", r"/api/models/([^/]+/[^/]+)/tree/([^/]+)(?:/(.*))?", self._list_tree),
            ("GET", r"/api/models/([^/]+/[^/]+)(?:/revision/(.+))?", self._tell_repository),
            ("POST", r"/([^/]+/[^/]+)\.git/info/lfs/objects/batch", self._batch),
            ("PUT", r"/lfs/([0-9a-f]{64})", self._store),
            ("POST", r"/lfs/([0-9a-f]{64})/verify", self._verify),
            ("GET|HEAD", r"/lfs/([0-9a-f]{64})", self._fetch),
            ("GET|HEAD", r"/([^/]+/[^/]+)/resolve/([^/]+)/(.+)", self._resolve),
        )
        for method, pattern, function in routes:
            found = re.fullmatch(pattern, path)
            if found and re.fullmatch(method, self.method):
                function(*(None if part is None else unquote(part) for part in found.groups()), body)
                return
        self._send_error(404, None, f"no such route: {self.method} {path}")

    def _create(self, body: bytes) -> None:
        user, wanted = self._get_user(), json.loads(body)
        if user is None:
            self._send_error(401, None, "Invalid username or password.")
            return
        owner = wanted.get("organization") or user
        name = f"{owner}/{wanted['name']}"
        url = f"{self.server_hub.endpoint}/{name}"
        if name in self.server_hub.repositories:
            self._send_json({"error": "You already created this model repo", "url": url}, 409)
        elif owner != user:
            self._send_error(403, None, f"You don't have the rights to create a model under the namespace {owner!r}")
        else:
            private = wanted.get("visibility") == "private" or bool(wanted.get("private"))
            repository = self.server_hub.repositories[name] = Repository(owner, private)
            repository.commit("main", {".gitattributes": b"*.safetensors filter=lfs\n"}, "initial commit")
            self._send_json({"url": url, "name": name, "id": name})

    def _tell_who(self, body: bytes) -> None:
        user = self._get_user()
        if user is None:
            self._send_error(401, None, "Invalid credentials in Authorization header")
        else:
            self._send_json({"type": "user", "name": user, "orgs": [], "auth": {"type": "access_token"}})

    def _find_commit(self, repository: Repository, revision: str) -> str | None:
        oid = repository.find(revision)
        if oid is None:
            self._send_error(404, "RevisionNotFound", f"Invalid rev id: {revision}")
        return oid

    def _preupload(self, name: str, revision: str, body: bytes) -> None:
        repository = self._find_repository(name, writes="create_pr" not in self.query)
        oid = repository and self._find_commit(repository, revision)
        if not oid:
            return
        tree, answers = repository.commits[oid], []
        for file in json.loads(body)["files"]:
            is_lfs = file["path"].endswith(LFS_SUFFIXES) or file["size"] > 10_000_000
            known = tree.get(file["path"])
            answers.append(
                {
                    "path": file["path"],
                    "uploadMode": "lfs" if is_lfs else "regular",
                    "shouldIgnore": False,
                    "oid": None if known is None else _compute_oid(known, is_lfs),
                }
            )
        self._send_json({"files": answers})

    def _commit(self, name: str, revision: str, body: bytes) -> None:
        creates_pr = "create_pr" in self.query
        repository = self._find_repository(name, writes=not creates_pr)
        parent = repository and self._find_commit(repository, revision)
        if not parent:
            return
        lines = [json.loads(line) for line in body.splitlines() if line.strip()]
        header = next(line["value"] for line in lines if line["key"] == "header")
        if header.get("parentCommit") not in (None, parent):
            self._send_error(412, None, "A commit has happened since. Please refresh and try again.")
            return
        tree = dict(repository.commits[parent])
        for line in lines:
            value = line["value"]
            if line["key"] == "file":
                tree[value["path"]] = base64.b64decode(value["content"])
            elif line["key"] == "lfsFile":
                if value["oid"] not in self.server_hub.lfs:
                    self._send_error(400, None, f"LFS object of {value['path']} is missing")
                    return
                tree[value["path"]] = self.server_hub.lfs[value["oid"]]
            elif line["key"] == "deletedFile":
                tree.pop(value["path"], None)
            elif line["key"] == "deletedFolder":
                tree = {path: blob for path, blob in tree.items() if not path.startswith(value["path"].rstrip("/") + "/")}
        number = 1 + sum(ref.startswith("refs/pr/") for ref in repository.refs)
        oid = repository.commit(f"refs/pr/{number}" if creates_pr else revision, tree, header["summary"])
        url = f"{self.server_hub.endpoint}/{name}"
        answer = {"success": True, "commitOid": oid, "commitUrl": f"{url}/commit/{oid}", "hookOutput": ""}
        self._send_json({**answer, **({"pullRequestUrl": f"{url}/discussions/{number}"} if creates_pr else {})})

    def _branch(self, name: str, branch: str, body: bytes) -> None:
        repository = self._find_repository(name, writes=True)
        if repository is None:
            return
        if branch in repository.refs:
            self._send_error(409, None, f"Reference already exists: {branch}")
            return
        start = self._find_commit(repository, (json.loads(body or b"{}") or {}).get("startingPoint") or "main")
        if start:
            repository.refs[branch] = start
            self._send_json({})

    def _tag(self, name: str, revision: str, body: bytes) -> None:
        repository = self._find_repository(name, writes=True)
        oid = repository and self._find_commit(repository, revision)
        if oid:
            repository.refs[json.loads(body)["tag"]] = oid
            self._send_json({})

    def _tell_repository(self, name: str, revision: str | None, body: bytes) -> None:
        repository = self._find_repository(name)
        oid = repository and self._find_commit(repository, revision or "main")
        if oid:
            facts = {"id": name, "modelId": name, "sha": oid, "private": repository.private, "tags": [], "downloads": 0}
            self._send_json({**facts, "siblings": [{"rfilename": path} for path in sorted(repository.commits[oid])]})

    def _describe(self, path: str, blob: bytes) -> dict:
        facts = {"type": "file", "path": path, "size": len(blob), "oid": _compute_oid(blob, False)}
        if path.endswith(LFS_SUFFIXES):
            facts["lfs"] = {"oid": _compute_oid(blob, True), "size": len(blob), "pointerSize": 130}
        return facts

    def _list_tree(self, name: str, revision: str, folder: str | None, body: bytes) -> None:
        repository = self._find_repository(name)
        oid = repository and self._find_commit(repository, revision)
        if not oid:
            return
        start = f"{folder.rstrip('/')}/" if folder else ""
        inside = {path: blob for path, blob in repository.commits[oid].items() if path.startswith(start)}
        if not inside:
            self._send_error(404, "EntryNotFound", f"{folder} does not exist on {revision!r}", {"X-Repo-Commit": oid})
            return
        deep = self.query.get("recursive", ["false"])[0].lower() in ("true", "1")
        entries = [self._describe(path, blob) for path, blob in sorted(inside.items()) if deep or "/" not in path[len(start) :]]
        folders = {
            start + "/".join(parts[:depth])
            for parts in (path[len(start) :].split("/") for path in inside)
            for depth in (range(1, len(parts)) if deep else range(1, min(2, len(parts))))
        }
        entries += [{"type": "directory", "path": path, "oid": _compute_oid(path.encode(), False)} for path in sorted(folders)]
        self._send_json(entries)

    def _list_paths(self, name: str, revision: str, body: bytes) -> None:
        repository = self._find_repository(name)
        oid = repository and self._find_commit(repository, revision)
        if oid:
            tree = repository.commits[oid]
            wanted = parse_qs(body.decode()).get("paths", [])
            self._send_json([self._describe(path, tree[path]) for path in wanted if path in tree])

    # Files

    def _batch(self, name: str, body: bytes) -> None:
        # What stands in no commit yet belongs to nobody: a pull request of another user uploads too.
        if self._find_repository(name) is None:
            return
        answers = []
        for wanted in json.loads(body)["objects"]:
            url = f"{self.server_hub.endpoint}/lfs/{wanted['oid']}"
            actions = (
                {}
                if wanted["oid"] in self.server_hub.lfs
                else {"actions": {"upload": {"href": url}, "verify": {"href": f"{url}/verify"}}}
            )
            answers.append({**wanted, **actions})
        self._send_json({"transfer": "basic", "objects": answers})

    def _store(self, oid: str, body: bytes) -> None:
        if hashlib.sha256(body).hexdigest() != oid:
            self._send_error(400, None, "The content is not what its name says.")
            return
        self.server_hub.lfs[oid] = body
        self._send(200)

    def _verify(self, oid: str, body: bytes) -> None:
        known = self.server_hub.lfs.get(oid)
        self._send(200 if known is not None and len(known) == json.loads(body)["size"] else 404)

    def _fetch(self, oid: str, body: bytes) -> None:
        self._send_blob(self.server_hub.lfs[oid], {"ETag": f'"{oid}"'})

    def _resolve(self, name: str, revision: str, path: str, body: bytes) -> None:
        repository = self._find_repository(name)
        oid = repository and self._find_commit(repository, revision)
        if not oid:
            return
        headers, blob = {"X-Repo-Commit": oid}, repository.commits[oid].get(path)
        if blob is None:
            self._send_error(404, "EntryNotFound", "Entry not found", headers)
        elif path.endswith(LFS_SUFFIXES):
            sha = _compute_oid(blob, True)
            self.server_hub.lfs.setdefault(sha, blob)
            headers |= {"X-Linked-Etag": f'"{sha}"', "X-Linked-Size": str(len(blob))}
            # As on the Hub, large files come from another host; to that, a client sends no token.
            elsewhere = self.server_hub.endpoint.replace("127.0.0.1", "localhost")
            self._send(302, b"", {**headers, "Location": f"{elsewhere}/lfs/{sha}"})
        else:
            self._send_blob(blob, {**headers, "ETag": f'"{_compute_oid(blob, False)}"'})

    def _send_blob(self, blob: bytes, headers: Mapping[str, str]) -> None:
        found = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range") or "")
        if found is None:
            self._send(200, blob, {"Accept-Ranges": "bytes", **headers})
            return
        start, end = int(found[1]), int(found[2] or len(blob) - 1)
        told = {"Content-Range": f"bytes {start}-{end}/{len(blob)}", **headers}
        self._send(206, blob[start : end + 1], told)


def _compute_oid(blob: bytes, is_lfs: bool) -> str:
    """The id of a file: git's for a plain one, that of its content for a large one."""
    if is_lfs:
        return hashlib.sha256(blob).hexdigest()
    return hashlib.sha1(b"blob %d\x00" % len(blob) + blob).hexdigest()
