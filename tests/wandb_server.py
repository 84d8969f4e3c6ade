"""A stand-in for the server of Weights & Biases: what `wandb sync` asks of it, and no more."""

import gzip
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


class Server(ThreadingHTTPServer):
    """Keeps the lines of each run's history where their sender says that they belong."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.histories: dict[str, list[str]] = {}
        self.ended: list[str] = []
        self.faults: list[str] = []
        self.lock = threading.Lock()

    @property
    def address(self) -> str:
        """What WANDB_BASE_URL has to be."""
        return f"http://127.0.0.1:{self.server_port}"

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that leaves without a word is none."""


class _Handler(BaseHTTPRequestHandler):
    server: Server
    protocol_version = "HTTP/1.1"

    def log_message(self, *args: Any) -> None:
        pass

    def do_GET(self) -> None:
        self._answer({})

    def do_PUT(self) -> None:
        self._read()
        self._answer({})

    def do_POST(self) -> None:
        data = self._read()
        stream = re.fullmatch(r"/files/[^/]+/[^/]+/([^/]+)/file_stream", self.path)
        answer: dict[str, Any] = {}
        with self.server.lock:
            if stream:
                self._append(stream[1], json.loads(data))
            elif self.path == "/graphql":
                answer = {"data": self._resolve(json.loads(data))}
        self._answer(answer)

    def _read(self) -> bytes:
        data = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        return gzip.decompress(data) if self.headers.get("Content-Encoding") == "gzip" else data

    def _answer(self, content: dict[str, Any]) -> None:
        body = json.dumps(content).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def _append(self, run: str, content: dict[str, Any]) -> None:
        part = (content.get("files") or {}).get("wandb-history.jsonl")
        if part:
            history, start = self.server.histories[run], part["offset"]
            if start != len(history):
                self.server.faults.append(f"{start} is not behind {len(history)} lines")
            history[start:] = part["content"]
        if content.get("complete"):
            self.server.ended.append(run)

    def _resolve(self, content: dict[str, Any]) -> dict[str, Any]:
        found = re.match(r"\s*(?:query|mutation)\s+(\w+)", content["query"])
        asked, given = found[1] if found else "", content.get("variables") or {}
        project = {"id": "p", "name": given.get("project"), "entity": {"id": "e", "name": "me"}}
        run = given.get("name", "")
        lines = self.server.histories.get(run)
        bucket = {"id": run, "name": run, "historyLineCount": len(lines or [])}
        if asked == "RunResumeStatus":
            tails = {"historyTail": json.dumps((lines or [])[-1:]), "eventsTail": "[]"}
            known = {**bucket, **tails, "eventsLineCount": 0, "logLineCount": 0}
            known |= {"config": "{}", "summaryMetrics": "{}"}
            return {"model": {**project, "bucket": None if lines is None else known}}
        if asked == "UpsertBucket":
            self.server.histories.setdefault(run, [])
            bucket["project"] = project
            return {"upsertBucket": {"bucket": bucket, "inserted": lines is None}}
        if asked == "CreateRunFiles":
            files = [{"name": n, "uploadUrl": f"{self.server.address}/f"} for n in given["files"]]
            return {"createRunFiles": {"runID": run, "uploadHeaders": [], "files": files}}
        return {}


@contextmanager
def serving() -> Iterator[Server]:
    """The server, while it runs."""
    with Server() as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()
