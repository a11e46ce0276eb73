"""A real HTTP server on loopback that answers what a test scripts: a stand-in for the service, for its clients."""

from __future__ import annotations

import dataclasses
import json
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


def job_json(**changes: Any) -> dict[str, Any]:
    return {
        "id": "gen_1",
        "status": "queued",
        "done": False,
        "progress": {"step": 0, "steps": 20},
        "images": [],
        "error": None,
        "timings": {},
        **changes,
    }


DONE = job_json(
    status="succeeded",
    done=True,
    progress={"step": 20, "steps": 20},
    images=[{"index": 0, "url": "/v1/generations/gen_1/images/0", "seed": 7, "stats": {"denoise_s": 1.5}}],
    timings={"denoise_s": 1.5},
    a_member_of_a_later_version=1,
)


@dataclasses.dataclass
class Answer:
    status: int = 200
    body: bytes = b""
    media_type: str = "application/json"
    headers: dict[str, str] = dataclasses.field(default_factory=dict)
    hang_up: bool = False
    after_s: float = 0.0

    @classmethod
    def of(cls, value: object, status: int = 200, **headers: str) -> Answer:
        kind = "application/problem+json" if status >= 400 else "application/json"
        return cls(status, json.dumps(value).encode(), kind, {k.replace("_", "-"): v for k, v in headers.items()})


@dataclasses.dataclass
class Asked:
    method: str
    path: str
    headers: dict[str, str]
    body: bytes


class Service(ThreadingHTTPServer):
    """Answers the scripted answers in order, the last one for ever, and remembers what it was asked."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.answers: list[Answer] = []
        self.asked: list[Asked] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class _Handler(BaseHTTPRequestHandler):
    server: Service

    def do_GET(self) -> None:
        length = int(self.headers.get("Content-Length", 0))
        self.server.asked.append(Asked(self.command, self.path, dict(self.headers), self.rfile.read(length)))
        answers = self.server.answers
        answer = answers.pop(0) if len(answers) > 1 else answers[0]
        time.sleep(answer.after_s)
        if answer.hang_up:
            self.connection.shutdown(socket.SHUT_RDWR)
            self.close_connection = True
            return
        self.send_response(answer.status)
        for name, value in {"Content-Type": answer.media_type, **answer.headers}.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(answer.body)))
        self.end_headers()
        self.wfile.write(answer.body)

    do_POST = do_GET  # noqa: N815 - the names are http.server's

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@contextmanager
def scripted_service() -> Iterator[Service]:
    """A running Service on a free port."""
    with Service() as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield server
        server.shutdown()
        thread.join()
