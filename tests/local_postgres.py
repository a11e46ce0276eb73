"""A PostgreSQL server of one's own, for the tests and for benchmarks that need one."""

import contextlib
import functools
import itertools
import re
import secrets
import shutil
import subprocess
from pathlib import Path

from local_server import TIMEOUT_S, LocalServer, hand_over

DEBIANS = "/usr/lib/postgresql"  # Debian keeps the server's programs off the PATH, one folder per version
SUPERUSER = "postgres"
ROLE = "instantid"  # what the service is: an ordinary role, because row-level security does not bind superusers


def programs():
    """The folder with PostgreSQL's programs: the PATH's, or Debian's newest. None where it is not installed."""
    if on_path := shutil.which("initdb"):
        return Path(on_path).resolve().parent
    found = [initdb.parent for initdb in Path(DEBIANS).glob("*/bin/initdb")]
    return max(found, key=lambda folder: [int(part) for part in re.findall(r"\d+", str(folder))], default=None)


class Postgres(LocalServer):
    """A PostgreSQL cluster whose commits survive a stop, though not a power cut: nothing waits for the disk."""

    def __init__(self, bin_folder):
        super().__init__("postgres")
        self._bin = bin_folder
        self._password = secrets.token_hex(16)  # another user of this machine must not become a superuser here
        self._numbers = itertools.count(1)
        self._make_cluster()

    def command(self):
        settings = {
            "listen_addresses": "127.0.0.1",
            "port": self.port,
            "unix_socket_directories": self.folder,
            "synchronous_commit": "on",
            "fsync": "off",
            "full_page_writes": "off",
        }
        options = [option for name, value in settings.items() for option in ("-c", f"{name}={value}")]
        return [self._bin / "postgres", "-D", self.folder / "data", *options]

    def answers(self):
        import psycopg

        try:
            self._as_superuser("SELECT 1")
        except psycopg.OperationalError as error:
            raise ConnectionError(str(error)) from error

    def url(self, database, user=ROLE):
        """An SQLAlchemy URL, with the password."""
        return f"postgresql+psycopg://{user}:{self._password}@127.0.0.1:{self.port}/{database}"

    def create_database(self, *, migrated=False):
        """The URL of a new database that the ordinary role owns: empty, or with this version's tables."""
        template = self._migrated if migrated else "template1"
        name = f"instantid_{next(self._numbers)}"
        self._as_superuser(f"CREATE DATABASE {name} OWNER {ROLE} TEMPLATE {template}")
        return self.url(name)

    def drop_database(self, url):
        """Remove it, whoever is still connected."""
        self._as_superuser(f"DROP DATABASE {url.rpartition('/')[2]} WITH (FORCE)")

    def create_role(self):
        self._as_superuser(f"CREATE ROLE {ROLE} LOGIN PASSWORD '{self._password}'")

    @functools.cached_property
    def _migrated(self):
        """The name of a database to copy: copying costs half of what migrating does."""
        from instantid_serve.service.database import open_database, upgrade

        url = self.create_database()
        database = open_database(url)
        upgrade(database)
        database.close()
        return url.rpartition("/")[2]

    def _make_cluster(self):
        password = self.folder / "password"
        password.write_text(self._password)
        hand_over(password)
        options = ["--username", SUPERUSER, "--pwfile", password, "--auth", "scram-sha-256", "--no-sync"]
        locale = ["--locale", "C", "--encoding", "UTF8"]
        made = subprocess.run(
            [self._bin / "initdb", "-D", self.folder / "data", *options, *locale],
            **self.how_to_run(),
            capture_output=True,
            text=True,
            check=False,
            timeout=TIMEOUT_S,
        )
        assert made.returncode == 0, made.stderr

    def _as_superuser(self, statement):
        import psycopg

        url = self.url("postgres", SUPERUSER).replace("+psycopg", "")
        with psycopg.connect(url, autocommit=True, connect_timeout=5) as connection:
            connection.execute(statement)


@contextlib.contextmanager
def running(bin_folder):
    """A server with the ordinary role, for the length of a ``with`` block."""
    server = Postgres(bin_folder)
    try:
        server.start()
        server.create_role()
        yield server
    finally:
        server.remove()
