"""The database: its tables, its connections, its clock and its migrations. The only file that knows the driver.

SQLite embedded and PostgreSQL in clusters run the same statements. All times are seconds since the epoch on the
database's clock, so that workers whose own clocks disagree still agree about leases.
"""

from __future__ import annotations

import contextlib
import math
import sqlite3
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import alembic.command
import alembic.config
import alembic.util
import sqlalchemy as sa
import sqlalchemy.exc
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy.dialects.postgresql import JSONB

from instantid_serve.errors import ConfigurationError, ConflictError, DatabaseError

MIGRATIONS = Path(__file__).parent / "migrations"
_UPGRADE_LOCK = 0x1D5E  # any number, as long as no other program takes the same advisory lock
_JULIAN_DAY_OF_EPOCH = 2440587.5
_WAL_RETRY_S = 0.02

Clock = Callable[[], sa.ColumnElement[float]]

metadata = sa.MetaData()
_json = sa.JSON(none_as_null=True).with_variant(JSONB(none_as_null=True), "postgresql")

jobs = sa.Table(
    "jobs",
    metadata,
    sa.Column("id", sa.Text, primary_key=True),
    sa.Column("tenant", sa.Text, nullable=False),
    sa.Column("status", sa.Text, nullable=False),
    sa.Column("spec", _json, nullable=False),
    sa.Column("photo_key", sa.Text, nullable=False),
    sa.Column("pictures", sa.Integer, nullable=False),  # of the spec; the unit of budgets and fairness
    sa.Column("attempts", sa.Integer, nullable=False),  # claims that were not handed back unharmed
    sa.Column("fence", sa.BigInteger, nullable=False),  # grows with every claim; a settle must name the current one
    sa.Column("worker", sa.Text),
    sa.Column("lease_until", sa.Double),
    sa.Column("not_before", sa.Double, nullable=False),
    sa.Column("cancel_requested", sa.Boolean(create_constraint=False), nullable=False),
    sa.Column("step", sa.Integer, nullable=False),
    sa.Column("steps", sa.Integer, nullable=False),
    sa.Column("images", _json, nullable=False),
    sa.Column("error", _json),
    sa.Column("timings", _json, nullable=False),
    sa.Column("created_at", sa.Double, nullable=False),
    sa.Column("updated_at", sa.Double, nullable=False),
    sa.Column("started_at", sa.Double),
    sa.Column("finished_at", sa.Double),
    sa.Index("jobs_by_status", "status", "created_at", "id"),
    sa.Index("jobs_by_tenant", "tenant", "created_at", "id"),
)


class Database:
    """A pool of connections. Every statement runs inside :meth:`read` or :meth:`write`; both have timeouts."""

    def __init__(self, engine: sa.Engine) -> None:
        self._reader = engine
        self._writer = engine.execution_options(write=True)

    @contextlib.contextmanager
    def read(self) -> Iterator[sa.Connection]:
        """A transaction that only reads. Raises DatabaseError when the database does not answer."""
        with translated_errors(), self._reader.begin() as connection:
            yield connection

    @contextlib.contextmanager
    def write(self) -> Iterator[sa.Connection]:
        """A transaction that writes, committed at the end. Raises DatabaseError, or ConflictError for a taken key."""
        with translated_errors(), self._writer.begin() as connection:
            yield connection

    def now(self) -> sa.ColumnElement[float]:
        """The database's time within the statement that uses it: seconds since the epoch."""
        if self._reader.dialect.name == "postgresql":
            # The statement's time rather than clock_timestamp(): constant, so an index can serve the comparison.
            return sa.cast(sa.extract("epoch", sa.func.statement_timestamp()), sa.Double)
        # SQLite 3.40 knows no 'subsec' yet; julianday has milliseconds, and is constant within a statement.
        return (sa.func.julianday("now", type_=sa.Double) - _JULIAN_DAY_OF_EPOCH) * 86400.0

    def ping(self) -> None:
        """Raises DatabaseError unless the database answers."""
        with self.read() as connection:
            connection.execute(sa.select(1))

    def close(self) -> None:
        """Close the idle connections."""
        self._reader.dispose()


@contextlib.contextmanager
def translated_errors() -> Iterator[None]:
    """The one place where the driver's errors become ours. The cause is kept; it never shows a statement's values.

    Values that no database could store are no outage, and waiting would not help: those errors pass as they are.
    """
    try:
        yield
    except sqlalchemy.exc.IntegrityError as error:
        raise ConflictError("the database holds such a row already") from error
    except sqlalchemy.exc.DataError:
        raise
    except (sqlalchemy.exc.SQLAlchemyError, sqlite3.Error) as error:
        if type(error) is sqlalchemy.exc.StatementError:  # raised before the driver was asked
            raise
        raise DatabaseError("the database does not answer") from error


def open_database(url: str, busy_timeout_s: float = 10.0) -> Database:
    """Open the database at an SQLAlchemy URL. ``busy_timeout_s`` bounds every wait for a lock or a connection.

    Nothing is created but an SQLite file's folder: :func:`upgrade` makes the tables. Raises ConfigurationError for a
    URL that cannot be served, DatabaseError when the database does not answer.
    """
    try:
        parsed = sa.make_url(url)
    except sqlalchemy.exc.ArgumentError:
        raise ConfigurationError("database.url is not an SQLAlchemy URL") from None  # the cause may hold a password
    backends = {"sqlite": _open_sqlite, "postgresql": _open_postgresql}
    if parsed.get_backend_name() not in backends:
        raise ConfigurationError("database.url must be sqlite or postgresql", {"backend": parsed.get_backend_name()})
    return Database(backends[parsed.get_backend_name()](parsed, busy_timeout_s))


def _open_sqlite(url: sa.URL, busy_timeout_s: float) -> sa.Engine:
    if not url.database or url.database == ":memory:" or "mode=memory" in str(url.query):
        raise ConfigurationError("database.url must name a file: one in memory is not shared between processes")
    Path(url.database).absolute().parent.mkdir(parents=True, exist_ok=True)
    engine = sa.create_engine(
        url, hide_parameters=True, pool_timeout=busy_timeout_s, connect_args={"timeout": busy_timeout_s}
    )

    @sa.event.listens_for(engine, "connect")
    def _connect(connection: sqlite3.Connection, _record: object) -> None:
        # sqlite3 before 3.12 begins transactions when it thinks best; SQLAlchemy's documented cure is to begin them
        # ourselves. `synchronous` stays FULL: an accepted job must survive a power cut.
        connection.isolation_level = None
        connection.execute("PRAGMA foreign_keys = ON")
        _use_wal(connection, busy_timeout_s)

    @sa.event.listens_for(engine, "begin")
    def _begin(connection: sa.Connection) -> None:
        # A deferred transaction that reads before it writes cannot wait for the lock: it fails at once. So writers
        # take the lock first, and wait for it under the busy timeout.
        write = connection.get_execution_options().get("write", False)
        connection.exec_driver_sql("BEGIN IMMEDIATE" if write else "BEGIN")

    return engine


def _use_wal(connection: sqlite3.Connection, timeout_s: float) -> None:
    """Readers and the writer do not block each other. The file remembers; only the first change can meet a lock."""
    deadline = time.monotonic() + timeout_s
    while connection.execute("PRAGMA journal_mode").fetchone() != ("wal",):
        try:
            connection.execute("PRAGMA journal_mode = WAL")
        except sqlite3.OperationalError:  # the busy handler is not asked for this change
            if time.monotonic() > deadline:
                raise
            time.sleep(_WAL_RETRY_S)


def _open_postgresql(url: sa.URL, busy_timeout_s: float) -> sa.Engine:
    timeout_ms = math.ceil(busy_timeout_s * 1000)
    options = f"-c lock_timeout={timeout_ms} -c statement_timeout={timeout_ms}"
    try:
        return sa.create_engine(
            url,
            hide_parameters=True,
            pool_timeout=busy_timeout_s,
            pool_pre_ping=True,
            connect_args={"connect_timeout": math.ceil(busy_timeout_s), "options": options},
        )
    except ImportError as error:
        raise ConfigurationError("PostgreSQL needs a driver: install psycopg[binary]") from error


def upgrade(database: Database) -> None:
    """Bring the tables to this version's form. Safe when several processes start at once: one works, the others wait.

    Raises ConfigurationError when the database was made by a version that this one does not know.
    """
    config = alembic.config.Config()
    config.set_main_option("script_location", str(MIGRATIONS).replace("%", "%%"))
    try:
        if _is_current(database, config):
            return
        # SQLite's write transaction is the lock there. DDL is transactional in both, so a crash leaves no half.
        with database.write() as connection:
            if connection.dialect.name == "postgresql":
                connection.execute(sa.select(sa.func.pg_advisory_xact_lock(_UPGRADE_LOCK)))
            config.attributes["connection"] = connection
            alembic.command.upgrade(config, "head")
    except alembic.util.CommandError as error:
        raise ConfigurationError(f"the database cannot be brought to this version: {error}") from error


def _is_current(database: Database, config: alembic.config.Config) -> bool:
    wanted: Any = ScriptDirectory.from_config(config).get_heads()
    with database.read() as connection:
        return set(MigrationContext.configure(connection).get_current_heads()) == set(wanted)
