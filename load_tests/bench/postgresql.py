"""A PostgreSQL server of its own for a benchmark: the one that the tests start (it needs the extra `dev`)."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Protocol


class Server(Protocol):
    """What benchmarks need of it."""

    def create_database(self) -> str:
        """The URL of a new, empty database, which an ordinary role owns."""


@contextlib.contextmanager
def postgresql() -> Iterator[Server]:
    """A server for the length of a ``with`` block. Raises RuntimeError where PostgreSQL is not installed."""
    sys.path.append(str(Path(__file__).parents[2] / "tests"))
    from postgres_server import Postgres, programs  # noqa: PLC0415 - found on the path from the line above on

    if (bin_folder := programs()) is None:
        raise RuntimeError("PostgreSQL is not installed: apt-get install postgresql")
    server = Postgres(bin_folder)
    try:
        server.start()
        server.create_role()
        yield server
    finally:
        server.remove()
