"""The decoder's child may die in any way; its parent answers, and goes on."""

from __future__ import annotations

import contextlib
import os
import resource
import signal
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from bad_images import MAX_BYTES, corpus, png, save, scene

from instantid_serve.decoding import GuardedDecoder
from instantid_serve.errors import ImageCorruptError, ImageError, UnavailableError
from instantid_serve.images import decode_photo, decode_png

PHOTO = save(scene(), "PNG")
SLOW_PHOTO = png(5000, 4999, 8, 2)  # about a second of inflating


def decoding_children() -> Iterator[int]:
    """The decoding processes that this process started: of this test's decoder, and of others that still live."""
    parent = f"PPid:\t{os.getpid()}\n"
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):  # it has just ended
            ours = parent in (process / "status").read_text("ascii", "replace")
            if ours and b"instantid_serve.decoding" in (process / "cmdline").read_bytes():
                yield int(process.name)


others: set[int] = set()


@pytest.fixture(autouse=True)
def _others() -> None:
    others.clear()
    others.update(decoding_children())


def child_of_this_process() -> int:
    return next(child for child in decoding_children() if child not in others)


@pytest.fixture
def decoder() -> Iterator[GuardedDecoder]:
    decoder = GuardedDecoder(max_bytes=MAX_BYTES)
    yield decoder
    decoder.close()


@contextlib.contextmanager
def children_dying(kind: signal.Signals) -> Iterator[None]:
    """Kill every child that is busy decoding a large photo."""
    over = threading.Event()

    def kill() -> None:
        while not over.wait(0.01):
            with contextlib.suppress(StopIteration, OSError):
                child = child_of_this_process()
                pages = int(Path(f"/proc/{child}/statm").read_text(encoding="ascii").split()[1])
                if pages * resource.getpagesize() > 80e6:  # 55 MB without a photo
                    os.kill(child, kind)

    killer = threading.Thread(target=kill)
    killer.start()
    try:
        yield
    finally:
        over.set()
        killer.join()


def test_a_photo_comes_back_as_it_is_decoded_here(decoder: GuardedDecoder):
    normal = decode_png(decoder.normalise(PHOTO))

    assert np.array_equal(normal, decode_photo(PHOTO, max_bytes=MAX_BYTES))


def test_every_bad_photo_is_refused_as_it_is_here_by_one_child(decoder: GuardedDecoder):
    decoder.normalise(PHOTO)
    child = child_of_this_process()
    wrong = []

    for name, (data, code) in corpus().items():
        try:
            decoder.normalise(data)
            answer = None
        except ImageError as error:
            answer = error.code
        if answer != code:
            wrong.append((name, answer))

    assert wrong == []
    assert child_of_this_process() == child


@pytest.mark.parametrize("kind", [signal.SIGSEGV, signal.SIGKILL, signal.SIGABRT])
def test_a_photo_that_every_child_dies_of_is_refused_and_nothing_else(decoder: GuardedDecoder, kind: signal.Signals):
    decoder.normalise(PHOTO)

    with children_dying(kind), pytest.raises(ImageCorruptError):
        decoder.normalise(SLOW_PHOTO)

    assert decoder.normalise(PHOTO)


def test_a_photo_is_not_blamed_for_one_childs_death(decoder: GuardedDecoder):
    decoder.normalise(PHOTO)
    threading.Timer(0.15, lambda: os.kill(child_of_this_process(), signal.SIGKILL)).start()

    normal = decode_png(decoder.normalise(SLOW_PHOTO))

    assert normal.shape == (2048, 2048, 3)


def test_the_parent_outlives_many_children(decoder: GuardedDecoder):
    for _ in range(20):
        decoder.normalise(PHOTO)
        os.kill(child_of_this_process(), signal.SIGSEGV)

    assert decoder.normalise(PHOTO)


def test_a_photo_that_takes_too_long_is_refused_in_time():
    decoder = GuardedDecoder(max_bytes=MAX_BYTES, timeout_s=0.2)
    decoder.normalise(PHOTO)
    started = time.perf_counter()

    with pytest.raises(ImageCorruptError):
        decoder.normalise(SLOW_PHOTO)

    assert time.perf_counter() - started < 1
    decoder.close()


def test_threads_share_the_children():
    decoder = GuardedDecoder(max_bytes=MAX_BYTES, workers=2)

    with ThreadPoolExecutor(8) as threads:
        answers = set(threads.map(decoder.normalise, [PHOTO] * 40))

    assert len(answers) == 1
    decoder.close()


def test_the_child_has_no_secret_in_its_environment(decoder: GuardedDecoder, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "very-secret")
    decoder.normalise(PHOTO)

    environment = Path(f"/proc/{child_of_this_process()}/environ").read_bytes()

    assert b"very-secret" not in environment


def test_the_child_has_bounded_memory(decoder: GuardedDecoder):
    decoder.normalise(PHOTO)

    limits = Path(f"/proc/{child_of_this_process()}/limits").read_text(encoding="ascii")

    assert f"Max address space         {2 * 2**30}" in limits


def test_a_decoder_that_cannot_start_is_not_the_photos_fault(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("sys.executable", "/bin/false")
    decoder = GuardedDecoder(max_bytes=MAX_BYTES)

    with pytest.raises(UnavailableError):
        decoder.normalise(PHOTO)

    decoder.close()
