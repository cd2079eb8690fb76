"""A Hub on the loopback interface: the parts of its HTTP API that huggingface_hub uses to push and to load a model.

Repositories are kept in memory, one commit after the other. Uploads go by git LFS (HF_HUB_DISABLE_XET=1): the other
protocol has a server of its own. Tokens, visibility and the metadata of cards are judged as the Hub judges them.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlparse

import huggingface_hub
import yaml
from huggingface_hub import constants
from huggingface_hub.utils import _http
from transformers.utils import hub as transformers_hub

OWNER = "tester"
WRITE_TOKEN = "hf_" + "writeWRITEwriteWRITEwriteWRITE1234"
READ_TOKEN = "hf_" + "readREADreadREADreadREADreadREAD12"
LFS_SUFFIXES = (".safetensors", ".bin", ".pt", ".pth")
LICENCES = ("apache-2.0", "mit", "cc-by-4.0", "cc-by-nc-4.0", "openrail", "other", "unknown")
TASKS = ("automatic-speech-recognition", "audio-classification", "audio-text-to-text")
REPO_ID = r"[\w.-]+/[\w.-]+"


@dataclass
class Repo:
    """Files by path, as of each commit; `messages` are the commits' own."""

    private: bool
    commits: list[dict[str, bytes]] = field(default_factory=lambda: [{}])
    messages: list[str] = field(default_factory=list)

    @property
    def files(self) -> dict[str, bytes]:
        return self.commits[-1]

    def sha(self) -> str:
        return hashlib.sha1(f"{id(self)}-{len(self.commits)}".encode()).hexdigest()


class Hub:
    """The server's state, and the faults it is told to have.

    Attributes:
        faults: part of a request line ("POST /api/repos/create") -> a status to answer with, or "cut" to hang up.
        requests: request lines in the order they came.
    """

    def __init__(self) -> None:
        self.repos: dict[str, Repo] = {}
        self.blobs: dict[str, bytes] = {}
        self.faults: dict[str, int | str] = {}
        self.requests: list[str] = []
        self.lock = threading.RLock()
        self.endpoint = ""


@contextmanager
def hub_server() -> Iterator[Hub]:
    """A running Hub; `endpoint` is what HF_ENDPOINT takes."""
    hub = Hub()

    class Handler(_Handler):
        state = hub

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    hub.endpoint = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


class _Refused(Exception):
    def __init__(self, status: int, message: str, code: str | None = None):
        super().__init__(message)
        self.status, self.code = status, code


class _Handler(BaseHTTPRequestHandler):
    state: Hub
    protocol_version = "HTTP/1.1"

    def log_message(self, format: str, *args: Any) -> None:
        """Quiet."""

    def do_GET(self) -> None:
        self._answer()

    do_HEAD = do_POST = do_PUT = do_GET

    def _answer(self) -> None:
        body = self._body()
        path = unquote(urlparse(self.path).path)
        line = f"{self.command} {path}"
        with self.state.lock:
            self.state.requests.append(line)
            try:
                self._fail_if_told(line)
                for methods, pattern, function in ROUTES:
                    if self.command in methods and (found := re.fullmatch(pattern, path)):
                        return function(self, body, *found.groups())
                raise _Refused(404, f"no such place: {line}")
            except _Refused as refusal:
                headers = {"X-Error-Message": str(refusal), **({"X-Error-Code": refusal.code} if refusal.code else {})}
                self._send(refusal.status, {"error": str(refusal)}, headers)
            except ConnectionAbortedError:
                self.close_connection = True
                self.connection.close()

    def _body(self) -> bytes:
        if self.headers.get("Transfer-Encoding", "").lower() == "chunked":
            parts = []
            while size := int(self.rfile.readline().split(b";")[0], 16):
                parts.append(self.rfile.read(size))
                self.rfile.readline()
            self.rfile.readline()
            return b"".join(parts)
        return self.rfile.read(int(self.headers.get("Content-Length", 0)))

    def _fail_if_told(self, line: str) -> None:
        for part, fault in self.state.faults.items():
            if part in line:
                if fault == "cut":
                    raise ConnectionAbortedError
                raise _Refused(int(fault), f"told to answer {fault}")

    def _send(self, status: int, content: Any, headers: dict[str, str] | None = None) -> None:
        data = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_response(status)
        kind = "application/octet-stream" if isinstance(content, bytes) else "application/json"
        for name, value in {"Content-Type": kind, "Content-Length": str(len(data)), **(headers or {})}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)

    # ---- who asks ----

    def _token(self) -> str | None:
        scheme, _, token = self.headers.get("Authorization", "").partition(" ")
        return token if scheme == "Bearer" else None

    def _must_write(self) -> None:
        if self._token() is None:
            raise _Refused(401, "Invalid username or password.")
        if self._token() != WRITE_TOKEN:
            raise _Refused(403, "You don't have the rights to write here")

    def _repo(self, repo_id: str) -> Repo:
        repo = self.state.repos.get(repo_id)
        if repo is None or (repo.private and self._token() not in (WRITE_TOKEN, READ_TOKEN)):
            raise _Refused(401 if self._token() is None else 404, "Repository not found", "RepoNotFound")
        return repo

    def _at(self, repo_id: str, revision: str) -> Repo:
        repo = self._repo(repo_id)
        if revision not in ("main", repo.sha()):
            raise _Refused(404, "Invalid rev id", "RevisionNotFound")
        return repo

    # ---- writing ----

    def create(self, body: bytes) -> None:
        self._must_write()
        asked = json.loads(body)
        repo_id = f"{asked.get('organization') or OWNER}/{asked['name']}"
        known = repo_id in self.state.repos
        if not known:
            self.state.repos[repo_id] = Repo(asked.get("visibility") == "private" or bool(asked.get("private")))
        self._send(409 if known else 200, {"url": f"{self.state.endpoint}/{repo_id}", "error": "exists"})

    def whoami(self, body: bytes) -> None:
        if self._token() is None:
            raise _Refused(401, "Invalid username or password.")
        self._send(200, {"name": OWNER, "type": "user", "auth": {"accessToken": {"role": "write"}}})

    def validate(self, body: bytes) -> None:
        faults = card_faults(json.loads(body)["content"])
        self._send(400 if faults else 200, {"errors": [{"message": fault} for fault in faults], "warnings": []})

    def preupload(self, body: bytes, repo_id: str, revision: str) -> None:
        self._must_write()
        held = self._at(repo_id, revision).files
        files = []
        for asked in json.loads(body)["files"]:
            lfs, old = asked["path"].endswith(LFS_SUFFIXES), held.get(asked["path"])
            oid = None if old is None else (hashlib.sha256(old).hexdigest() if lfs else git_oid(old))
            files.append(
                {"path": asked["path"], "uploadMode": "lfs" if lfs else "regular", "shouldIgnore": False, "oid": oid}
            )
        self._send(200, {"files": files})

    def lfs_batch(self, body: bytes, repo_id: str) -> None:
        self._must_write()
        self._repo(repo_id)
        objects = []
        for asked in json.loads(body)["objects"]:
            here = {"href": f"{self.state.endpoint}/lfs/{asked['oid']}"}
            new = asked["oid"] not in self.state.blobs
            objects.append({**asked, **({"actions": {"upload": here}} if new else {})})
        self._send(200, {"transfer": "basic", "objects": objects})

    def lfs_upload(self, body: bytes, oid: str) -> None:
        if hashlib.sha256(body).hexdigest() != oid:
            raise _Refused(400, "the bytes are not those announced")
        self.state.blobs[oid] = body
        self._send(200, {})

    def commit(self, body: bytes, repo_id: str, revision: str) -> None:
        self._must_write()
        repo = self._at(repo_id, revision)
        files = dict(repo.files)
        for line in map(json.loads, body.splitlines()):
            value = line["value"]
            if line["key"] == "header":
                repo.messages.append(value["summary"])
            elif line["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif line["key"] == "lfsFile":
                files[value["path"]] = self.state.blobs[value["oid"]]
            else:
                raise _Refused(400, f"no such operation: {line['key']}")
        repo.commits.append(files)
        url = f"{self.state.endpoint}/{repo_id}/commit/{repo.sha()}"
        self._send(200, {"success": True, "commitUrl": url, "commitOid": repo.sha()})

    # ---- reading ----

    def info(self, body: bytes, repo_id: str, revision: str | None = None) -> None:
        repo = self._at(repo_id, revision or "main")
        card = metadata(repo.files.get("README.md", b"").decode())
        self._send(
            200,
            {
                "id": repo_id,
                "sha": repo.sha(),
                "private": repo.private,
                "siblings": [{"rfilename": path} for path in sorted(repo.files)],
                "tags": card.get("tags", []),
                **({"pipeline_tag": card["pipeline_tag"]} if "pipeline_tag" in card else {}),
            },
        )

    def tree(self, body: bytes, repo_id: str, revision: str, folder: str | None = None) -> None:
        repo = self._at(repo_id, revision)
        inside = {path: data for path, data in repo.files.items() if path.startswith(f"{folder}/" if folder else "")}
        self._send(200, [self._entry(path, data) for path, data in sorted(inside.items())])

    def _entry(self, path: str, data: bytes) -> dict[str, Any]:
        entry = {"type": "file", "path": path, "size": len(data), "oid": git_oid(data)}
        if path.endswith(LFS_SUFFIXES):
            entry["lfs"] = {"oid": hashlib.sha256(data).hexdigest(), "size": len(data), "pointerSize": 134}
        return entry

    def resolve(self, body: bytes, repo_id: str, revision: str, path: str) -> None:
        repo = self._at(repo_id, revision)
        commit = {"X-Repo-Commit": repo.sha()}
        if path not in repo.files:
            headers = {**commit, "X-Error-Code": "EntryNotFound", "X-Error-Message": "Entry not found"}
            return self._send(404, {"error": "Entry not found"}, headers)
        data = repo.files[path]
        lfs = path.endswith(LFS_SUFFIXES)
        etag = hashlib.sha256(data).hexdigest() if lfs else git_oid(data)
        self._send(200, data, {**commit, "ETag": f'"{etag}"'})


ROUTES = [
    (("POST",), r"/api/repos/create", _Handler.create),
    (("GET",), r"/api/whoami-v2", _Handler.whoami),
    (("POST",), r"/api/validate-yaml", _Handler.validate),
    (("POST",), rf"/api/models/({REPO_ID})/preupload/(.+)", _Handler.preupload),
    (("POST",), rf"/({REPO_ID})\.git/info/lfs/objects/batch", _Handler.lfs_batch),
    (("PUT",), r"/lfs/([0-9a-f]{64})", _Handler.lfs_upload),
    (("POST",), rf"/api/models/({REPO_ID})/commit/(.+)", _Handler.commit),
    (("GET",), rf"/api/models/({REPO_ID})/revision/([^/]+)", _Handler.info),
    (("GET",), rf"/api/models/({REPO_ID})/tree/([^/]+)(?:/(.+))?", _Handler.tree),
    (("GET",), rf"/api/models/({REPO_ID})", _Handler.info),
    (("GET", "HEAD"), rf"/({REPO_ID})/resolve/([^/]+)/(.+)", _Handler.resolve),
]


def git_oid(data: bytes) -> str:
    return hashlib.sha1(b"blob %d\0%s" % (len(data), data)).hexdigest()


def metadata(card: str) -> dict[str, Any]:
    """The YAML block of a card; {} where there is none."""
    found = re.match(r"---\n(.*?)\n---\n", card, re.DOTALL)
    return (yaml.safe_load(found.group(1)) or {}) if found else {}


def card_faults(card: str) -> list[str]:
    """What the Hub would say against a card's metadata."""
    data = metadata(card)
    faults = [] if data else ["there is no metadata"]
    patterns = {"base_model": REPO_ID, "datasets": rf"{REPO_ID}|[\w-]+", "language": r"[a-z]{2,3}", "tags": r"[\w:.-]+"}
    for key, pattern in patterns.items():
        values = data.get(key, [])
        for value in [values] if isinstance(values, str) else values:
            if not re.fullmatch(pattern, str(value)):
                faults.append(f"{key}: {value!r} is none")
    for key, known in (("license", LICENCES), ("pipeline_tag", TASKS), ("library_name", ("transformers", "peft"))):
        if key in data and data[key] not in known:
            faults.append(f"{key}: {data[key]!r} is not one of {known}")
    if data.get("license") == "other" and not {"license_name", "license_link"} <= data.keys():
        faults.append("license other needs license_name and license_link")
    return faults + [fault for entry in data.get("model-index", []) for fault in _result_faults(entry)]


def _result_faults(entry: dict[str, Any]) -> Iterator[str]:
    """As https://github.com/huggingface/hub-docs/blob/main/modelcard.md describes `model-index`."""
    if not isinstance(entry.get("name"), str) or not entry.get("results"):
        yield "model-index: an entry has a name and results"
    for result in entry.get("results", []):
        if result.get("task", {}).get("type") not in TASKS:
            yield "model-index: a result has task.type"
        if not all(isinstance(result.get("dataset", {}).get(key), str) for key in ("type", "name")):
            yield "model-index: a result has dataset.type and dataset.name"
        if not result.get("metrics") or not all({"type", "value"} <= metric.keys() for metric in result["metrics"]):
            yield "model-index: a result has metrics with type and value"


@contextmanager
def taken_for_the_hub(monkeypatch, folder: Path) -> Iterator[Hub]:
    """A Hub that this process takes for the real one, an empty cache, and no token but the one in the environment.

    Args:
        folder: where the cache lies.
    """
    with hub_server() as server:
        for name in [name for name in vars(constants) if name in ("ENDPOINT", "_HF_DEFAULT_ENDPOINT")]:
            monkeypatch.setattr(constants, name, server.endpoint)
        template = server.endpoint + "/{repo_id}/resolve/{revision}/{filename}"
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(folder / "cache"))
        monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(folder / "no-token"))
        monkeypatch.setattr(transformers_hub, "_hf_api", None, raising=False)
        monkeypatch.setattr(huggingface_hub.hf_api.api, "endpoint", server.endpoint)
        monkeypatch.setenv("HF_TOKEN", WRITE_TOKEN)
        monkeypatch.setenv("HF_HUB_DISABLE_PROGRESS_BARS", "1")
        _http.close_session()
        yield server
        _http.close_session()
