"""A running :mod:`.api_program`, whose memory and restarts can be told from outside."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from instantid_serve.settings import SCOPES

PROGRAM = Path(__file__).with_name("api_program.py")
KEYS = {"acme": "key-of-acme", "other": "key-of-other"}  # tenant -> API key, which may do all there is
MAX_BODY = 15_000_000


@dataclasses.dataclass(frozen=True)
class ApiProcess:
    """The process, and where it listens on 127.0.0.1."""

    process: subprocess.Popen[str]
    port: int
    log: Path

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def rss_bytes(self) -> int:
        """Its memory now."""
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        return int(re.search(r"VmRSS:\s+(\d+) kB", status)[1]) * 1024

    def runs(self) -> bool:
        return self.process.poll() is None


def settings_in(folder: Path, **sections: Mapping[str, Any]) -> dict[str, Any]:
    """Settings of a service whose state is all in the folder, and whose limits let a test through."""
    keys = [
        {"tenant": tenant, "sha256": hashlib.sha256(key.encode()).hexdigest(), "scopes": SCOPES}
        for tenant, key in KEYS.items()
    ]
    many = 1_000_000
    own: dict[str, dict[str, Any]] = {
        "database": {"url": f"sqlite:///{folder / 'jobs.sqlite3'}"},
        "results": {"kind": "folder", "folder": str(folder / "results")},
        "api": {"keys": keys, "max_body_bytes": MAX_BODY, "max_wait_s": 0.2, "poll_s": 0.02},
        "tenancy": {"requests_per_minute": many, "failed_logins_per_minute": many, "max_queued_jobs": many},
    }
    return own | {name: own.get(name, {}) | dict(section) for name, section in sections.items()}


@contextlib.contextmanager
def api_process(
    folder: Path, settings: Mapping[str, Any], names: Mapping[str, Sequence[Sequence[str]]]
) -> Iterator[ApiProcess]:
    """Start it, and stop it at the end. ``names``: each host name's answers, as :mod:`.api_program` has them."""
    files = {"settings.json": settings, "names.json": names}
    for name, content in files.items():
        (folder / name).write_text(json.dumps(content))
    log, root = folder / "api.log", PROGRAM.parents[2]
    command = [sys.executable, str(PROGRAM), *(str(folder / name) for name in files)]
    with log.open("wb") as written:
        process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=written,
            text=True,
            env={**os.environ, "PYTHONPATH": str(root)},
        )
    try:
        line = process.stdout.readline()
        if not line:
            raise RuntimeError(f"the API did not start:\n{log.read_text()[-2000:]}")
        yield ApiProcess(process, int(line), log)
    finally:
        process.communicate(timeout=30)
