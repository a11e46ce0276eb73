"""Wake-ups: on PostgreSQL, whoever waits for a change is told of it; elsewhere, and when a word is lost, it looks.

A word carries nothing but ids, and is sent with the transaction's commit.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Sequence

import psycopg
import sqlalchemy as sa

from instantid_serve.service.database import Database

WORK = "instantid_work"  # a job can be claimed
CHANGES = "instantid_changes"  # a job changed; the payload is its id
DELIVERIES = "instantid_deliveries"  # a webhook can be delivered

_RETRY_S = 1.0
_LOOK_S = 1.0  # how often a listener looks whether it is to end

log = logging.getLogger(__name__)


def tell(connection: sa.Connection, channel: str, payloads: Sequence[str] = ("",)) -> None:
    """Tell those who listen to ``channel``, once this transaction is committed."""
    if connection.dialect.name == "postgresql":
        for payload in payloads:
            connection.execute(sa.select(sa.func.pg_notify(channel, payload)))


class Listener:
    """Calls ``heard(channel, payload)`` from a thread of its own, with a connection of its own; PostgreSQL only.

    A connection that breaks is made again; what was said meanwhile is lost, so those who wait also look by themselves.
    """

    def __init__(self, database: Database, channels: Sequence[str], heard: Callable[[str, str], object]) -> None:
        url = database.url.set(drivername="postgresql").render_as_string(hide_password=False)
        self._url = url
        self._channels = channels
        self._heard = heard
        self._ending = threading.Event()
        self._thread = threading.Thread(target=self._run, name="wakeups", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """End the thread, within about a second."""
        self._ending.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._ending.is_set():
            try:
                self._listen()
            except psycopg.Error as error:  # the database is away, and those who wait look by themselves
                log.warning("listening for wake-ups failed: %s", type(error).__name__)
                self._ending.wait(_RETRY_S)

    def _listen(self) -> None:
        with psycopg.connect(self._url, autocommit=True, connect_timeout=5) as connection:
            for channel in self._channels:
                connection.execute(psycopg.sql.SQL("LISTEN {}").format(psycopg.sql.Identifier(channel)))
            while not self._ending.is_set():
                for notice in connection.notifies(timeout=_LOOK_S):
                    self._heard(notice.channel, notice.payload)


def listen(database: Database, channels: Sequence[str], heard: Callable[[str, str], object]) -> Listener | None:
    """A listener where the database can tell; None on SQLite."""
    return Listener(database, channels, heard) if database.is_postgresql else None
