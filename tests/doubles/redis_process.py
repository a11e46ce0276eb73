"""A real Redis on a free port that a test may stop and start again; it keeps nothing on disk."""

from __future__ import annotations

import contextlib
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest


class RedisProcess:
    """``url`` stays the same over stops and starts."""

    def __init__(self, folder: Path) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self._port = free.getsockname()[1]
        self._folder = folder
        self._process: subprocess.Popen[bytes] | None = None
        self.url = f"redis://127.0.0.1:{self._port}"

    def start(self) -> None:
        server = shutil.which("redis-server")
        assert server is not None
        address = ["--bind", "127.0.0.1", "--port", str(self._port)]
        command = [server, *address, "--save", "", "--appendonly", "no", "--dir", str(self._folder)]
        self._process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
        until = time.monotonic() + 10
        while True:
            with contextlib.suppress(OSError):
                socket.create_connection(("127.0.0.1", self._port), timeout=1).close()
                return
            assert time.monotonic() < until, "Redis does not start"
            time.sleep(0.02)

    def stop(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait(timeout=10)
            self._process = None


@contextlib.contextmanager
def redis_process(folder: Path) -> Iterator[RedisProcess]:
    """Started, and stopped at the end. Skips the test where no redis-server is installed."""
    if shutil.which("redis-server") is None:
        pytest.skip("no redis-server here")
    process = RedisProcess(folder)
    process.start()
    try:
        yield process
    finally:
        process.stop()
