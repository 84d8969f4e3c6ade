#!/usr/bin/env bash
# A data set on a web server that is overloaded (503), or that nobody answers for, is "file not found"
#
# One would guess: fsspec, through which Lightning, datasets and pandas read https://, raises
# FileNotFoundError for a file that the server does not have (404), and another OSError where the
# server cannot be reached or is busy, so that a loader may retry the one and report the other.
#
# True, of fsspec 2026.9.0 with aiohttp 3.14.5: info() and open() raise FileNotFoundError for all three,
# and exists() says False. Only the cause behind the error (__cause__) tells: its status, or a
# ClientConnectorError without one. So code that takes a missing shard for the end of the shards, or
# makes anew a cache that "is not there", does so whenever a server has a bad minute.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q fsspec==2026.9.0 aiohttp==3.14.5
"$folder/venv/bin/python" - <<'PYTHON'
import socket
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer

import aiohttp
import fsspec


class Answers(BaseHTTPRequestHandler):
    def do_HEAD(self):
        status = 503 if "busy" in self.path else 404
        self.send_response(status)
        self.send_header("Content-Length", "0")
        self.end_headers()

    do_GET = do_HEAD

    def log_message(self, *_):
        pass


server = HTTPServer(("127.0.0.1", 0), Answers)
threading.Thread(target=server.serve_forever, daemon=True).start()
with socket.socket() as free:  # a port that nobody answers on
    free.bind(("127.0.0.1", 0))
    nobody = free.getsockname()[1]

print("fsspec", fsspec.__version__, "aiohttp", aiohttp.__version__)
here = f"http://127.0.0.1:{server.server_port}"
found = {}
for what, address in {
    "missing": f"{here}/missing.tar",
    "busy": f"{here}/busy.tar",
    "nobody": f"http://127.0.0.1:{nobody}/shard.tar",
}.items():
    system = fsspec.filesystem("http")
    try:
        system.info(address)
    except OSError as error:
        cause = error.__cause__
        found[what] = type(error).__name__, getattr(cause, "status", type(cause).__name__)
    print(what, *found[what], "exists:", system.exists(address))
    assert system.exists(address) is False
assert found == {
    "missing": ("FileNotFoundError", 404),
    "busy": ("FileNotFoundError", 503),
    "nobody": ("FileNotFoundError", "ClientConnectorError"),
}, found
PYTHON
