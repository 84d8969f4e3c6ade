#!/usr/bin/env bash
# Shards in a folder whose listing timed out are missing from the training set, without a word
#
# One would guess: fsspec's find() either lists all files below an address or raises, or at least
# does so with on_error="raise", an option of walk() that is documented as raising what listing raises.
#
# True, of fsspec 2026.9.0 (its generic search, which https://, hdfs:// and webhdfs:// use): find() and
# walk() leave out a folder whose listing ends in an OSError (a timeout, a reset), and on_error="raise"
# counts for the top folder alone, as it is not handed down to those below. So a data set that is
# listed by find() or a glob of "**" has fewer files on a bad day. Asking ls() folder by folder raises.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q fsspec==2026.9.0 aiohttp==3.14.5
"$folder/venv/bin/python" - <<'PYTHON'
import threading
import time
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import aiohttp
import fsspec

PAGES = {
    "/set/": '<a href="a/">a</a> <a href="b/">b</a>',
    "/set/a/": '<a href="0.tar">0.tar</a>',
    "/set/b/": '<a href="1.tar">1.tar</a>',
}
slow = set()


class Pages(BaseHTTPRequestHandler):
    def do_GET(self):
        page = PAGES.get(self.path)
        if self.path in slow:
            time.sleep(3)
        if f"{self.path}/" in PAGES:  # as web servers do for a folder without its slash
            self.send_response(301)
            self.send_header("Location", f"{self.path}/")
        else:
            self.send_response(200 if page else 404)
        body = (page or "").encode()
        self.send_header("Content-Type", "text/html")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        with suppress(BrokenPipeError, ConnectionResetError):
            self.wfile.write(body)

    def log_message(self, *_):
        pass


server = ThreadingHTTPServer(("127.0.0.1", 0), Pages)
threading.Thread(target=server.serve_forever, daemon=True).start()
here = f"http://127.0.0.1:{server.server_port}/set/"


def opened():
    quick = {"timeout": aiohttp.ClientTimeout(total=1)}
    return fsspec.filesystem("http", skip_instance_cache=True, client_kwargs=quick)


def found(**options):
    return [name.removeprefix(here) for name in opened().find(here, **options)]


print("fsspec", fsspec.__version__, "aiohttp", aiohttp.__version__)
print("all is well:", found())
assert found() == ["a/0.tar", "b/1.tar"]

slow.add("/set/b/")
missing = found(), found(on_error="raise")
print("b/ is slow:", missing[0], 'on_error="raise":', missing[1])
assert missing == (["a/0.tar"], ["a/0.tar"])
try:
    opened().ls(f"{here}b/")
    raise SystemExit("ls() did not raise")
except OSError as error:
    print("ls() of b/ raises", type(error).__name__)

slow.add("/set/")
try:
    found(on_error="raise")
    raise SystemExit("the top folder's error was not raised")
except OSError as error:
    print('the top folder is slow, on_error="raise":', type(error).__name__)
PYTHON
