"""A real HTTP server on loopback that stands for the hub and for a release page, and fails as it is told to."""

import contextlib
import hashlib
import json
import re
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote, urlsplit

LARGE_BYTES = 4096  # from here on the fake hub keeps a file's SHA-256, as the real one does for its large files


class FileServer:
    """What is served, by path; what was asked; and what goes wrong."""

    def __init__(self):
        self.files = {}  # path to bytes
        self.requests = []  # (path, Range header or None)
        self.status = {}  # path to an HTTP status to answer instead
        self.cuts = {}  # path to how many bytes each coming answer may send, one entry an answer
        self.ignores_ranges = False
        self.url = ""

    def add_repository(self, repo, revision, files):
        """Serve ``files`` (name to bytes) as the hub serves a repository at a commit, listing included."""
        for name, content in files.items():
            self.files[f"/{repo}/resolve/{revision}/{name}"] = content
        listing = [_entry(name, content) for name, content in files.items()]
        self.files[f"/api/models/{repo}/tree/{revision}"] = json.dumps(listing).encode()

    def asked(self, ending):
        """The Range headers of the requests for paths of that ending."""
        return [asked for path, asked in self.requests if path.endswith(ending)]


@contextlib.contextmanager
def file_server():
    """Run a FileServer for as long as the block lasts."""
    content = FileServer()
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"content": content}))
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    content.url = f"http://127.0.0.1:{server.server_port}"
    try:
        yield content
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    content: FileServer

    def do_GET(self):
        path = unquote(urlsplit(self.path).path)
        asked = self.headers.get("Range")
        self.content.requests.append((path, asked))
        if path in self.content.status or path not in self.content.files:
            self._answer(self.content.status.get(path, 404), b"", {})
        else:
            self._send(path, self.content.files[path], asked)

    def _send(self, path, body, asked):
        start = int(re.fullmatch(r"bytes=(\d+)-", asked)[1]) if asked and not self.content.ignores_ranges else 0
        if start and start >= len(body):
            self._answer(416, b"", {"Content-Range": f"bytes */{len(body)}"})
            return
        headers = {"Content-Range": f"bytes {start}-{len(body) - 1}/{len(body)}"} if start else {}
        limits = self.content.cuts.get(path)
        self._answer(206 if start else 200, body[start:], headers, limits.pop(0) if limits else None)

    def _answer(self, status, body, headers, limit=None):
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(body)), "Content-Type": "application/json"}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body[:limit])
        if limit is not None:
            self.close_connection = True  # in the middle of the body

    def log_message(self, *_):
        pass


def _entry(name, content):
    git = hashlib.sha1(b"blob %d\0" % len(content) + content, usedforsecurity=False).hexdigest()
    entry = {"type": "file", "path": name, "size": len(content), "oid": git}
    if len(content) < LARGE_BYTES:
        return entry
    digest = hashlib.sha256(content).hexdigest()
    return {**entry, "oid": "0" * 40, "lfs": {"oid": digest, "size": len(content), "pointerSize": 130}}
