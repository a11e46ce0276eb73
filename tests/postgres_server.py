"""PostgreSQL for the tests, started once per session (a pytest plugin)."""

import pytest
from local_postgres import programs, running
from required_parts import missing


@pytest.fixture(scope="session")
def postgres():
    """A running PostgreSQL server."""
    bin_folder = programs()
    if bin_folder is None:
        missing("postgres", "PostgreSQL is not installed: apt-get install postgresql")
    with running(bin_folder) as server:
        yield server
