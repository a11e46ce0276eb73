"""A PostgreSQL server of the benchmark's own: the one that the tests start."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from pathlib import Path

sys.path.append(str(Path(__file__).parents[2] / "tests"))

import local_postgres  # in the folder above


@contextlib.contextmanager
def database_url(*, migrated: bool = False) -> Iterator[str]:
    """The URL of a new database, for the length of a ``with`` block. Ends the program where PostgreSQL is missing."""
    programs = local_postgres.programs()
    if programs is None:
        raise SystemExit("PostgreSQL is not installed: apt-get install postgresql")
    with local_postgres.running(programs) as server:
        yield server.create_database(migrated=migrated)
