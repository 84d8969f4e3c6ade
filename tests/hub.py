"""A hub on the loopback: the endpoints that huggingface_hub 1 and 2 use, in memory."""

import base64
import hashlib
import json
import re
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs


class Hub:
    """Repositories by name, each a list of commits: their ids, files and what points at them."""

    def __init__(self):
        self.repos, self.refs, self.blobs, self.created = {}, {}, {}, {}
        self.cut = None  # a file that breaks off after so many bytes: (name, bytes)
        self.down = False
        self.requests = []

    def commit(self, repo, files, branch="main"):
        before = self.repos.setdefault(repo, {}).get(self.refs.get((repo, branch)), {})
        whole = {**before, **files}
        digest = hashlib.sha1(repr((len(self.repos[repo]), sorted(whole))).encode()).hexdigest()
        self.repos[repo][digest], self.refs[repo, branch] = whole, digest
        return digest

    def find(self, repo, revision):
        """The commit that a revision names, and what is wrong if there is none."""
        if repo not in self.repos:
            return None, "RepoNotFound"
        commit = self.refs.get((repo, revision), revision)
        return (commit, None) if commit in self.repos[repo] else (None, "RevisionNotFound")


_API = r"/api/(models|datasets)/([^/]+/[^/]+)"


def _named(match):
    """A repository of data lies beside those of models, as its address has it."""
    return match[2] if match[1] == "models" else f"datasets/{match[2]}"


def _row(name, files):
    """What a tree says of a file or folder, if there is one."""
    if name in files:
        digest = hashlib.sha1(files[name]).hexdigest()
        return {"type": "file", "path": name, "size": len(files[name]), "oid": digest}
    folder = any(other.startswith(f"{name}/") for other in files)
    return {"type": "directory", "path": name, "oid": "0"} if folder else None


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    hub: Hub

    def log_message(self, *_):
        pass

    def _send(self, content=b"", code=200, **headers):
        if not isinstance(content, bytes):
            content = json.dumps(content).encode()
            headers.setdefault("Content-Type", "application/json")
        size = headers.pop("size", len(content))
        self.send_response(code)
        for name, value in {"Content-Length": size, **headers}.items():
            self.send_header(name.replace("_", "-"), str(value))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def _missing(self, code):
        self._send({"error": code}, 404, X_Error_Code=code, X_Error_Message=code)

    def do_GET(self):
        self.hub.requests.append(f"{self.command} {self.path}")
        path = self.path.partition("?")[0]
        if self.hub.down:
            self._send(b"down", 503)
        elif match := re.fullmatch(r"/((?:datasets/)?[^/]+/[^/]+)/resolve/([^/]+)/(.+)", path):
            self._file(*match.groups())
        elif match := re.fullmatch(rf"{_API}/(revision|tree)/([^/]+)/?(.*)", path):
            flat = "recursive=false" in self.path.lower()
            self._listing(_named(match), *match.groups()[2:], flat=flat)
        elif match := re.fullmatch(_API, path):
            self._listing(_named(match), "revision", "main")
        elif re.fullmatch(r"/api/(models|datasets)/[^/]+", path):  # a name of old, without owner
            self._missing("RepoNotFound")
        else:
            self._missing("EntryNotFound")

    def do_HEAD(self):
        self.do_GET()

    def _file(self, repo, revision, name):
        commit, wrong = self.hub.find(repo, revision)
        if wrong:
            return self._missing(wrong)
        files = self.hub.repos[repo][commit]
        if name not in files:
            known = {"X_Repo_Commit": commit, "X_Error_Code": "EntryNotFound"}
            return self._send(b"", 404, **known)
        content = files[name]
        headers = {"ETag": f'"{hashlib.sha256(content).hexdigest()}"', "X_Repo_Commit": commit}
        first = int((re.search(r"bytes=(\d+)", self.headers.get("Range", "")) or [0, 0])[1])
        if first:
            headers["Content_Range"] = f"bytes {first}-{len(content) - 1}/{len(content)}"
        sent, code = content[first:], 206 if first else 200
        if self.hub.cut and self.hub.cut[0] == name and self.command == "GET":
            self.close_connection = True
            return self._send(content[first : self.hub.cut[1]], code, size=len(sent), **headers)
        return self._send(sent, code, **headers)

    def _listing(self, repo, kind, revision, below="", *, flat=False):
        commit, wrong = self.hub.find(repo, revision)
        if wrong:
            return self._missing(wrong)
        files = self.hub.repos[repo][commit]
        if kind == "tree":
            start = f"{below}/" if below else ""
            names = [name for name in files if name.startswith(start)]
            if flat:  # files and folders of this one
                names = {start + name.removeprefix(start).partition("/")[0] for name in names}
            rows = [_row(name, files) for name in names]
            return self._send(rows, X_Repo_Commit=commit)
        siblings = [{"rfilename": name} for name in files]
        return self._send({"id": repo, "modelId": repo, "sha": commit, "siblings": siblings})

    def _body(self):
        if "Content-Length" in self.headers:
            return self.rfile.read(int(self.headers["Content-Length"]))
        parts = []
        while size := int(self.rfile.readline(), 16):  # in chunks, the last of which is empty
            parts.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(parts)

    def do_PUT(self):
        content = self._body()
        assert hashlib.sha256(content).hexdigest() == self.path.rpartition("/")[2]
        self.hub.blobs[self.path.rpartition("/")[2]] = content
        self._send()

    def do_POST(self):
        self.hub.requests.append(f"POST {self.path}")
        body = self._body()
        path = self.path.partition("?")[0]
        here = f"http://{self.headers['Host']}"
        if match := re.fullmatch(rf"{_API}/paths-info/([^/]+)", path):
            commit = self.hub.find(_named(match), match[3])[0]
            files = self.hub.repos.get(_named(match), {}).get(commit, {})
            rows = (_row(name, files) for name in parse_qs(body.decode())["paths"])
            self._send([row for row in rows if row])
        elif "authorization" not in map(str.lower, self.headers):
            self._send({"error": "Invalid username or password."}, 401)
        elif path == "/api/repos/create":
            asked = json.loads(body)
            repo = f"{asked['organization']}/{asked['name']}"
            if repo not in self.hub.repos:
                self.hub.created[repo] = asked
                self.hub.commit(repo, {".gitattributes": b""})
            self._send({"url": f"{here}/{repo}", "name": repo, "id": repo})
        elif path == "/api/validate-yaml":
            self._send({"errors": [], "warnings": []})
        elif "/preupload/" in path:
            self._send(
                {
                    "files": [
                        {
                            "path": file["path"],
                            "uploadMode": "lfs" if ".safetensors" in file["path"] else "regular",
                            "shouldIgnore": False,
                            "oid": None,
                        }
                        for file in json.loads(body)["files"]
                    ]
                }
            )
        elif path.endswith("/info/lfs/objects/batch"):
            objects = [
                {**one, "actions": {"upload": {"href": f"{here}/lfs/{one['oid']}"}}}
                for one in json.loads(body)["objects"]
            ]
            self._send({"transfer": "basic", "objects": objects})
        elif match := re.fullmatch(r"/api/(?:models|spaces)/([^/]+/[^/]+)/commit/([^/]+)", path):
            files = {}
            for line in body.splitlines():
                key, value = (json.loads(line)[name] for name in ("key", "value"))
                if key == "file":
                    files[value["path"]] = base64.b64decode(value["content"])
                elif key == "lfsFile":
                    files[value["path"]] = self.hub.blobs[value["oid"]]
            oid = self.hub.commit(match[1], files, match[2])
            self._send({"commitUrl": f"{here}/{match[1]}/commit/{oid}", "commitOid": oid})
        else:
            self._missing("EntryNotFound")


def asked_instead(monkeypatch, address):
    """Makes huggingface_hub ask this address."""
    from huggingface_hub import constants

    for name, value in {
        "ENDPOINT": address,
        "HUGGINGFACE_CO_URL_TEMPLATE": address + "/{repo_id}/resolve/{revision}/{filename}",
        "HF_HUB_DISABLE_XET": True,
        "HF_HUB_OFFLINE": False,
    }.items():
        monkeypatch.setattr(constants, name, value)


@contextmanager
def running():
    """A hub and its address."""
    hub = Hub()
    handler = type("Handler", (_Handler,), {"hub": hub})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    try:
        yield hub, f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
