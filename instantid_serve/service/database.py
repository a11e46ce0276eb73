"""The database: its connections, its clock and its migrations. The only file that knows the driver.

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

import alembic.command
import alembic.config
import alembic.util
import sqlalchemy as sa
import sqlalchemy.exc
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory

from instantid_serve.errors import ConfigurationError, ConflictError, DatabaseError
from instantid_serve.service.tables import compatibility
from instantid_serve.settings import DatabaseSettings

MIGRATIONS = Path(__file__).parent / "migrations"
_UPGRADE_LOCK = 0x1D5E  # any number, as long as no other program takes the same advisory lock
_JULIAN_DAY_OF_EPOCH = 2440587.5
_WAL_RETRY_S = 0.02

EVERY_TENANT = "*"  # what workers, operators and migrations act for; no tenant can be named so

Clock = Callable[[], sa.ColumnElement[float]]


class Database:
    """A pool of connections. Every statement runs inside :meth:`read` or :meth:`write`; both have timeouts."""

    def __init__(self, engine: sa.Engine) -> None:
        self._reader = engine
        self._writer = engine.execution_options(write=True)

    @property
    def url(self) -> sa.URL:
        """Where it is; it may hold a password."""
        return self._reader.url

    @property
    def is_postgresql(self) -> bool:
        """Whether it can tell its clients that something changed."""
        return self._reader.dialect.name == "postgresql"

    @contextlib.contextmanager
    def read(self, tenant: str = EVERY_TENANT) -> Iterator[sa.Connection]:
        """A transaction that only reads, as ``tenant``: PostgreSQL then shows it no other tenant's rows.

        Raises DatabaseError when the database does not answer.
        """
        with translated_errors(), self._reader.begin() as connection:
            self._act_for(connection, tenant)
            yield connection

    @contextlib.contextmanager
    def write(self, tenant: str = EVERY_TENANT) -> Iterator[sa.Connection]:
        """A transaction that writes, committed at the end, as ``tenant``.

        Raises DatabaseError, or ConflictError for a taken key.
        """
        with translated_errors(), self._writer.begin() as connection:
            self._act_for(connection, tenant)
            yield connection

    def _act_for(self, connection: sa.Connection, tenant: str) -> None:
        if self.is_postgresql and tenant != EVERY_TENANT:
            connection.execute(sa.select(sa.func.set_config("instantid.tenant", tenant, True)))  # noqa: FBT003 - SQL

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
    # What row-level security looks at; transactions on a tenant's behalf set it to the tenant.
    scope = f"-c instantid.tenant={EVERY_TENANT}"
    # The last is for processes that are frozen in the middle of a transaction: their locks must not outlive them.
    timeouts = ("lock_timeout", "statement_timeout", "idle_in_transaction_session_timeout")
    options = " ".join([scope, *(f"-c {name}={timeout_ms}" for name in timeouts)])
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


def ready_database(settings: DatabaseSettings) -> Database:
    """The database that the settings name, with tables of this version. Raises as the three functions it calls do."""
    database = open_database(settings.url.get_secret_value(), settings.busy_timeout_s)
    (upgrade if settings.upgrade_at_start else require_current)(database)
    return database


def upgrade(database: Database) -> None:
    """Bring the tables to this version's form. Safe when several processes start at once: one works, the others wait.

    Tables of a later version stay as they are, as long as that version left room for this one: during a roll-out the
    old replicas still start. Raises ConfigurationError when it did not.
    """
    config = _alembic()
    try:
        if _is_usable(database, config):
            return
        # SQLite's write transaction is the lock there. DDL is transactional in both, so a crash leaves no half.
        with database.write() as connection:
            if connection.dialect.name == "postgresql":
                connection.execute(sa.select(sa.func.pg_advisory_xact_lock(_UPGRADE_LOCK)))
            config.attributes["connection"] = connection
            alembic.command.upgrade(config, "head")
    except alembic.util.CommandError as error:
        raise ConfigurationError(f"the database cannot be brought to this version: {error}") from error


def require_current(database: Database) -> None:
    """Raise ConfigurationError unless the tables can be used as they are: for replicas that must not change them."""
    if not _is_usable(database, _alembic()):
        raise ConfigurationError("the database is not of this version: run `instantid-serve database upgrade`")


def _alembic() -> alembic.config.Config:
    config = alembic.config.Config()
    config.set_main_option("script_location", str(MIGRATIONS).replace("%", "%%"))
    return config


def _is_usable(database: Database, config: alembic.config.Config) -> bool:
    scripts = ScriptDirectory.from_config(config)
    known = {script.revision for script in scripts.walk_revisions()}
    head = str(scripts.get_current_head())
    with database.read() as connection:
        found = MigrationContext.configure(connection).get_current_revision()
        if found is None or found == head:
            return found == head
        if found in known:
            return False
        oldest = connection.execute(sa.select(compatibility.c.oldest)).scalar_one()
    if oldest > head:  # migrations are numbered
        raise ConfigurationError("the database was made by a later version that left no room for this one")
    return True
