"""Downloading one file over HTTP: resumed where it was cut off, and kept only when it is the right one.

huggingface_hub 2 begins a file again from its first byte after an interruption (each process writes a temporary file of
its own); with files of 5 GB that is not good enough, so the bytes are fetched here, hub or not.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import httpx2

from instantid_serve.errors import WeightsError
from instantid_serve.models.presets import Pin
from instantid_serve.models.weights import file_sha256

TIMEOUT = httpx2.Timeout(30.0, connect=10.0)
ATTEMPTS = 5  # in a row without a byte
_PAUSE_S = 1.0  # before the second attempt; doubled for each further one

OnBytes = Callable[[int], None]
"""Called with the number of bytes that became available since the last call."""

_HINTS = {
    401: "; if the repository is gated, accept its terms at the hub and set HF_TOKEN",
    403: "; if the repository is gated, accept its terms at the hub and set HF_TOKEN",
    404: "; there is no such file at this revision",
}


def download(
    client: httpx2.Client,
    url: str,
    pin: Pin,
    path: Path,
    *,
    headers: Mapping[str, str] | None = None,
    on_bytes: OnBytes = lambda _: None,
    pause_s: float = _PAUSE_S,
) -> None:
    """Bring the file of ``pin`` to ``path``. What an earlier, interrupted call left beside it is used.

    Raises WeightsError naming the file when the server refuses, when it stays unreachable, or when what arrived is not
    what was pinned; in the last case it is thrown away, so that the next call starts clean.
    """
    if path.exists():  # only ever there when it was found right
        on_bytes(path.stat().st_size)
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f"{path.name}.part")
    if part.exists():
        on_bytes(part.stat().st_size)
    _receive_all(client, url, pin, part, dict(headers or {}), on_bytes, pause_s)
    fault = _fault(part, pin)
    if fault:
        part.unlink()
        raise WeightsError(f"the downloaded file {pin.path} {fault}; it was thrown away", {"file": pin.path})
    part.replace(path)


def _receive_all(
    client: httpx2.Client,
    url: str,
    pin: Pin,
    part: Path,
    headers: dict[str, str],
    on_bytes: OnBytes,
    pause_s: float,
) -> None:
    failures = 0
    while True:
        before = _size(part)
        try:
            _receive(client, url, pin, part, headers, on_bytes)
        except httpx2.TransportError as error:
            failures = 1 if _size(part) > before else failures + 1
            if failures >= ATTEMPTS:
                raise WeightsError(
                    f"{pin.path} cannot be downloaded now ({type(error).__name__}: {error}); try again to resume",
                    {"file": pin.path},
                ) from error
            time.sleep(pause_s * 2 ** (failures - 1))
        else:
            return


def _receive(client: httpx2.Client, url: str, pin: Pin, part: Path, headers: dict[str, str], on_bytes: OnBytes) -> None:
    have = _size(part)
    if have and have == pin.size_bytes:
        return
    # identity: the bytes on the wire must be those of the file, or offsets mean nothing
    asked = {**headers, "Accept-Encoding": "identity", **({"Range": f"bytes={have}-"} if have else {})}
    with client.stream("GET", url, headers=asked, follow_redirects=True) as response:
        if response.status_code == httpx2.codes.RANGE_NOT_SATISFIABLE:
            return  # all of it was here already, or more than it: the check of the content decides
        if response.is_server_error or response.status_code == httpx2.codes.TOO_MANY_REQUESTS:
            raise httpx2.RemoteProtocolError(f"the server answered {response.status_code}")
        if not response.is_success:
            hint = _HINTS.get(response.status_code, "")
            raise WeightsError(
                f"{pin.path} cannot be downloaded: the server answered {response.status_code}{hint}", {"file": pin.path}
            )
        resumed = response.status_code == httpx2.codes.PARTIAL_CONTENT and _starts_at(response, have)
        if have and not resumed:
            on_bytes(-have)  # the server sends it from the start
        with part.open("ab" if resumed else "wb") as file:
            for chunk in response.iter_raw():  # as they arrive: a chunk being filled would be lost with the connection
                file.write(chunk)
                on_bytes(len(chunk))


def _starts_at(response: httpx2.Response, offset: int) -> bool:
    return response.headers.get("Content-Range", "").startswith(f"bytes {offset}-")


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _fault(path: Path, pin: Pin) -> str | None:
    size_bytes = path.stat().st_size
    if pin.size_bytes is not None and size_bytes != pin.size_bytes:
        return f"has {size_bytes} bytes, not the pinned {pin.size_bytes}"
    if pin.sha256 is not None:
        return None if file_sha256(path) == pin.sha256 else "does not have the pinned SHA-256"
    if pin.git_sha1 is not None:
        return None if _git_sha1(path) == pin.git_sha1 else "does not have the hub's git hash"
    return "has no pinned hash to check it by"


def _git_sha1(path: Path) -> str:
    """What git names a file's content by; the hub's identity of a file that is not in its large-file store."""
    content = path.read_bytes()
    return hashlib.sha1(b"blob %d\0" % len(content) + content, usedforsecurity=False).hexdigest()
