"""Photos are decoded in a process of their own, which may die of them.

The parent starts ``python -m instantid_serve.decoding`` and talks to it over two pipes in length-prefixed raw bytes: no
pickle, and no re-import of the parent's ``__main__`` (multiprocessing's spawn would start a second Ray worker). The
child has no secrets in its environment, no room for a bomb, and ends when its parent does, because its input ends.
"""

from __future__ import annotations

import contextlib
import json
import os
import queue
import resource
import struct
import subprocess
import sys
import threading
import typing
from collections.abc import Iterator

import cv2

from instantid_serve.errors import (
    ImageAnimatedError,
    ImageCorruptError,
    ImageError,
    ImageFormatError,
    ImageTooLargeError,
    ImageTooManyPixelsError,
    ImageTooSmallError,
    UnavailableError,
)
from instantid_serve.images import decode_photo, encode

_MEMORY_BYTES = 2 * 2**30  # address space; a 25 MP RGBA photo needs about 0.6 GiB beyond the libraries
_FILES = 64
_CPU_S = 15  # per photo; the largest PNG that passes the gate takes two
_LENGTH = struct.Struct(">Q")
_READY, _DONE, _REFUSED = b"R", b"D", b"E"
_START_TIMEOUT_S = 60.0
_KEPT_VARIABLES = ("PATH", "LD_LIBRARY_PATH", "LANG", "LC_ALL", "TMPDIR")
_FAULTS: dict[str, type[ImageError]] = {
    fault.code: fault
    for fault in (
        ImageAnimatedError,
        ImageCorruptError,
        ImageFormatError,
        ImageTooLargeError,
        ImageTooManyPixelsError,
        ImageTooSmallError,
    )
}


class _DiedError(Exception):
    """A child ended before it answered."""


class GuardedDecoder:
    """Decodes photos in child processes with bounded memory and time; the caller outlives whatever they do.

    Safe to use from several threads: ``workers`` photos are decoded at once, others wait. A child lives for many
    photos and is replaced when it dies.
    """

    def __init__(self, *, max_bytes: int, timeout_s: float = 10.0, workers: int = 1) -> None:
        self._max_bytes = max_bytes
        self._timeout_s = timeout_s
        self._children: queue.LifoQueue[_Child | None] = queue.LifoQueue()
        for _ in range(workers):
            self._children.put(None)
        self._workers = workers

    def normalise(self, data: bytes) -> bytes:
        """Return the photo as :func:`images.decode_photo` decodes it, as a lossless PNG.

        Raises the ImageError that names what is wrong with it; ImageCorruptError also when two decoders died of it or
        one took too long. UnavailableError: no decoder can be started here.
        """
        if len(data) > self._max_bytes:
            raise ImageTooLargeError(
                f"the photo must be at most {self._max_bytes} bytes", {"max_bytes": self._max_bytes}
            )
        try:
            return self._ask_child(data)
        except _DiedError:
            # Once may be the machine's doing: a child killed for memory, or while it was idle.
            pass
        try:
            return self._ask_child(data)
        except _DiedError as error:
            raise ImageCorruptError("the photo cannot be decoded within the service's limits") from error

    def close(self) -> None:
        """End the children. Photos being decoded are finished first."""
        children = [self._children.get() for _ in range(self._workers)]
        for child in children:
            if child:
                child.end()
            self._children.put(None)

    def _ask_child(self, data: bytes) -> bytes:
        with self._child() as child:
            return child.normalise(data, self._timeout_s)

    @contextlib.contextmanager
    def _child(self) -> Iterator[_Child]:
        child = self._children.get()
        try:
            if child is None or not child.alive:
                if child:
                    child.end()
                    child = None  # so that a failing start leaves the place empty
                child = _Child(self._max_bytes)
            yield child
        finally:
            self._children.put(child)


class _Child:
    """One decoding process and its two pipes."""

    def __init__(self, max_bytes: int) -> None:
        self._process = subprocess.Popen(  # noqa: S603 - our own interpreter and module
            [sys.executable, "-P", "-m", "instantid_serve.decoding", str(max_bytes)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=_environment(),
        )
        self._killed = False
        try:
            with self._killed_after(_START_TIMEOUT_S):
                self._read(len(_READY))
        except EOFError as error:
            self.end()
            raise UnavailableError("the photo decoder could not be started") from error

    @property
    def alive(self) -> bool:
        return not self._killed and self._process.poll() is None

    def normalise(self, data: bytes, timeout_s: float) -> bytes:
        try:
            with self._killed_after(timeout_s):
                kind, answer = self._ask(data)
        except (OSError, EOFError) as error:
            self.end()  # waits for it: a child that is dying is not yet known to be dead
            if self._killed:
                raise ImageCorruptError(f"the photo takes more than {timeout_s:g} s to decode") from error
            raise _DiedError from error
        if kind == _DONE:
            return answer
        fault = json.loads(answer)
        raise _FAULTS[fault["code"]](fault["detail"], fault["facts"])

    def end(self) -> None:
        self._process.kill()
        for pipe in (self._process.stdin, self._process.stdout):
            with contextlib.suppress(OSError):  # the rest of a photo that it did not read
                typing.cast("typing.IO[bytes]", pipe).close()
        self._process.wait()

    def _ask(self, data: bytes) -> tuple[bytes, bytes]:
        requests = typing.cast("typing.IO[bytes]", self._process.stdin)
        requests.write(_LENGTH.pack(len(data)))
        requests.write(data)
        requests.flush()
        kind = self._read(1)
        (length,) = _LENGTH.unpack(self._read(_LENGTH.size))
        return kind, self._read(length)

    def _read(self, length: int) -> bytes:
        answer = typing.cast("typing.IO[bytes]", self._process.stdout).read(length)
        if len(answer) < length:
            raise EOFError
        return answer

    @contextlib.contextmanager
    def _killed_after(self, timeout_s: float) -> Iterator[None]:
        """Kill the child if the block takes longer: what the block waits for then ends."""

        def kill() -> None:
            self._killed = True
            self._process.kill()

        timer = threading.Timer(timeout_s, kill)
        timer.start()
        try:
            yield
        finally:
            timer.cancel()
            timer.join()


def _environment() -> dict[str, str]:
    """What the child gets: where to find this package, and nothing that a hostile photo could be after."""
    kept = {name: os.environ[name] for name in _KEPT_VARIABLES if name in os.environ}
    threads = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    return kept | threads | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}


def _limit_itself() -> None:
    resource.setrlimit(resource.RLIMIT_AS, (_MEMORY_BYTES, _MEMORY_BYTES))
    resource.setrlimit(resource.RLIMIT_NOFILE, (_FILES, _FILES))
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    cv2.setNumThreads(1)


def _allow_cpu(seconds: int) -> None:
    """Let the process use so much more CPU time; beyond it the kernel ends it, even when its parent is gone."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    hard = resource.getrlimit(resource.RLIMIT_CPU)[1]
    resource.setrlimit(resource.RLIMIT_CPU, (int(used.ru_utime + used.ru_stime) + seconds, hard))


def _answer(data: bytes, max_bytes: int) -> tuple[bytes, bytes]:
    try:
        return _DONE, encode(decode_photo(data, max_bytes=max_bytes), "png")
    except ImageError as error:
        return _REFUSED, json.dumps({"code": error.code, "detail": error.detail, "facts": error.facts}).encode()


def _serve(max_bytes: int) -> None:
    """Answer requests until the input ends."""
    _limit_itself()
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "wb")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())  # a library that prints must not print into the answers
    requests = sys.stdin.buffer
    answers.write(_READY)
    answers.flush()
    while prefix := requests.read(_LENGTH.size):
        (length,) = _LENGTH.unpack(prefix)
        _allow_cpu(_CPU_S)
        kind, answer = _answer(requests.read(length), max_bytes)
        answers.write(kind + _LENGTH.pack(len(answer)))
        answers.write(answer)
        answers.flush()


if __name__ == "__main__":
    _serve(int(sys.argv[1]))
