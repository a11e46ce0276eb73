import hashlib
import random

import httpx2
import pytest
from doubles.file_server import file_server

from instantid_serve.errors import WeightsError
from instantid_serve.models.download import download
from instantid_serve.models.presets import Pin

CONTENT = random.Random(1).randbytes(4_000_123)
PIN = Pin("big.bin", "big.bin", hashlib.sha256(CONTENT).hexdigest(), len(CONTENT))


@pytest.fixture
def server():
    """A server with one big file."""
    with file_server() as running:
        running.files["/big.bin"] = CONTENT
        yield running


def _download(server, path, **options):
    with httpx2.Client(trust_env=False) as client:
        download(client, f"{server.url}/big.bin", PIN, path, pause_s=0.001, **options)


def test_a_connection_cut_again_and_again_is_resumed_where_it_broke(server, tmp_path):
    server.cuts["/big.bin"] = [1_000_000, 500_000, 10]

    _download(server, tmp_path / "big.bin")

    assert (tmp_path / "big.bin").read_bytes() == CONTENT
    first, *resumed = server.asked("/big.bin")
    assert first is None
    offsets = [int(asked.removeprefix("bytes=").removesuffix("-")) for asked in resumed]
    assert offsets == [1_000_000, 1_500_000, 1_500_010]


class _InterruptedError(Exception):
    """Stands for a process that dies."""


def test_a_call_that_died_is_continued_by_the_next(server, tmp_path):
    received = 0

    def die(count):
        nonlocal received
        received += count
        if received > 2_000_000:
            raise _InterruptedError

    with pytest.raises(_InterruptedError):
        _download(server, tmp_path / "big.bin", on_bytes=die)

    _download(server, tmp_path / "big.bin")

    assert (tmp_path / "big.bin").read_bytes() == CONTENT
    assert server.asked("/big.bin") == [None, f"bytes={received}-"]


def test_the_bytes_counted_are_the_files_however_it_came(server, tmp_path):
    server.cuts["/big.bin"] = [1_000_000, 500_000]
    server.ignores_ranges = True  # each answer starts from the first byte
    counted = []

    _download(server, tmp_path / "big.bin", on_bytes=counted.append)

    assert sum(counted) == len(CONTENT)


def test_a_file_that_is_there_is_not_asked_for_again(server, tmp_path):
    _download(server, tmp_path / "big.bin")

    _download(server, tmp_path / "big.bin")

    assert len(server.requests) == 1


def test_a_download_complete_but_for_its_name_is_taken(server, tmp_path):
    (tmp_path / "big.bin.part").write_bytes(CONTENT)

    _download(server, tmp_path / "big.bin")

    assert (tmp_path / "big.bin").read_bytes() == CONTENT


@pytest.mark.parametrize("left", [b"other bytes", CONTENT + b"more"], ids=["other", "longer"])
def test_a_spoiled_rest_is_thrown_away_by_name_and_the_next_call_succeeds(server, tmp_path, left):
    (tmp_path / "big.bin.part").write_bytes(left)

    with pytest.raises(WeightsError, match=r"big\.bin .*; it was thrown away"):
        _download(server, tmp_path / "big.bin")
    _download(server, tmp_path / "big.bin")

    assert (tmp_path / "big.bin").read_bytes() == CONTENT


def test_other_bytes_than_the_pinned_are_never_kept(server, tmp_path):
    flipped = bytearray(CONTENT)
    flipped[1234] ^= 1
    server.files["/big.bin"] = bytes(flipped)

    with pytest.raises(WeightsError, match=r"big\.bin does not have the pinned SHA-256"):
        _download(server, tmp_path / "big.bin")

    assert list(tmp_path.iterdir()) == []


def test_an_unpinned_file_is_not_kept(server, tmp_path):
    with httpx2.Client(trust_env=False) as client, pytest.raises(WeightsError, match="no pinned hash"):
        download(client, f"{server.url}/big.bin", Pin("big.bin", "big.bin", None), tmp_path / "big.bin")


@pytest.mark.parametrize(
    ("status", "hint"), [(401, "HF_TOKEN"), (403, "HF_TOKEN"), (404, "no such file"), (410, "410")]
)
def test_a_refusal_is_told_at_once(server, tmp_path, status, hint):
    server.status["/big.bin"] = status

    with pytest.raises(WeightsError, match=hint):
        _download(server, tmp_path / "big.bin")

    assert len(server.requests) == 1


@pytest.mark.parametrize("status", [429, 503])
def test_a_server_in_trouble_is_asked_a_few_times_and_then_given_up(server, tmp_path, status):
    server.status["/big.bin"] = status

    with pytest.raises(WeightsError, match=rf"cannot be downloaded now .*{status}.*try again to resume"):
        _download(server, tmp_path / "big.bin")

    assert len(server.requests) == 5
