#!/usr/bin/env bash
# A file that was pushed to the Hugging Face hub a moment ago "does not exist", whatever the cache is told
#
# One would guess: use_listings_cache=False and listings_expiry_time, the options that every file
# system of fsspec takes for its listings, make HfFileSystem look each time, so that
# a job which waits for the next shard of a data set sees it when it comes.
#
# True, of huggingface_hub 2.4.0 with fsspec 2026.9.0: both are taken without a word and do nothing,
# since the listings lie in a plain dict. What one ls() or exists() has seen of a folder is what all
# later ones of the process see, of another object of the same options too: exists() stays False for
# a file that has come, and ls() does not list it. Only invalidate_cache() before the question helps.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q huggingface_hub==2.4.0 fsspec==2026.9.0
HF_HOME="$folder/home" "$folder/venv/bin/python" - <<'PYTHON'
import json
import threading
import time
from http.server import BaseHTTPRequestHandler, HTTPServer

import fsspec
import huggingface_hub
from huggingface_hub import HfFileSystem

repositories = {"me/shards": ["part-000.tar"]}


class Hub(BaseHTTPRequestHandler):
    """Answers /api/datasets/NAME and /api/datasets/NAME/tree/main."""

    def do_GET(self):
        path = self.path.partition("?")[0]
        name = "/".join(path.split("/")[3:5])
        files, code = repositories.get(name), 200
        if not path.startswith("/api/datasets/") or files is None:
            answer, code = {"error": "RepoNotFound"}, 404
        elif path.endswith("/tree/main"):
            answer = [{"type": "file", "path": f, "size": 1, "oid": "0" * 40} for f in files]
        else:
            answer = {"id": name, "sha": "0" * 40, "siblings": []}
        body = json.dumps(answer).encode()
        self.send_response(code)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        if code == 404:
            self.send_header("X-Error-Code", "RepoNotFound")
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


server = HTTPServer(("127.0.0.1", 0), Hub)
threading.Thread(target=server.serve_forever, daemon=True).start()
how = {
    "endpoint": f"http://127.0.0.1:{server.server_port}",
    "use_listings_cache": False,
    "listings_expiry_time": 0.1,
}
shards, new = "datasets/me/shards", "datasets/me/shards/part-001.tar"
print("huggingface_hub", huggingface_hub.__version__, "fsspec", fsspec.__version__)

system = HfFileSystem(**how)
assert system.exists(new) is False
repositories["me/shards"].append("part-001.tar")
time.sleep(0.5)
later = system.exists(new), HfFileSystem(**how).exists(new), len(system.ls(shards))
print("after it has come:", *later)
assert later == (False, False, 1)
system.invalidate_cache()
found = system.exists(new), len(system.ls(shards))
print("after invalidate_cache():", *found)
assert found == (True, 2)
PYTHON
