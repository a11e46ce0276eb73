"""API keys: how they look, and those of a database. A key is shown once; only its SHA-256 is kept.

``iid_<environment>_<id>_<secret><checksum>``: the id is public and finds the row, the secret is 256 random bits (so no
slow hash is needed), and the checksum lets scanners and this service tell a key from a typing error without asking
the database. All of it is base62, so a double click selects the whole.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import re
import secrets
import zlib
from collections.abc import Collection, Iterator, Sequence
from typing import Any

import sqlalchemy as sa

from instantid_serve.errors import ConflictError, ForbiddenError, NotFoundError, SecretShownError
from instantid_serve.service import idempotency
from instantid_serve.service.database import Clock, Database
from instantid_serve.service.idempotency import IdempotencyKey
from instantid_serve.service.tables import api_keys as table
from instantid_serve.service.tables import owned_by

_ALPHABET = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
_ID_CHARS = 12
_SECRET_CHARS = 43  # 256 bits
_CHECKSUM_CHARS = 6  # 32 bits
_SHAPE = re.compile(r"(iid_[a-z]{1,16}_([0-9A-Za-z]{12})_[0-9A-Za-z]{43})([0-9A-Za-z]{6})")


@dataclasses.dataclass(frozen=True, slots=True)
class KeyRecord:
    """What is known of a key. Times are seconds since the epoch; ``sha256`` of the whole key, in hex."""

    id: str
    tenant: str
    sha256: str = dataclasses.field(repr=False)
    scopes: tuple[str, ...]
    label: str
    created_at: float
    expires_at: float | None
    revoked_at: float | None


@dataclasses.dataclass(frozen=True, slots=True)
class IssuedKey:
    """A new key: its record, and the key itself, which nobody can tell again."""

    record: KeyRecord
    key: str = dataclasses.field(repr=False)


def digest(key: str) -> str:
    """The SHA-256 of a key, in hex. Odd text has one, too."""
    return hashlib.sha256(key.encode("utf-8", "surrogatepass")).hexdigest()


def id_of(key: str) -> str | None:
    """The public id of a well-formed key; None for anything else."""
    found = _SHAPE.fullmatch(key)
    return found[2] if found and found[3] == _checksum(found[1]) else None


def _new_key(environment: str) -> tuple[str, str]:
    key_id = _random(_ID_CHARS)
    body = f"iid_{environment}_{key_id}_{_random(_SECRET_CHARS)}"
    return key_id, body + _checksum(body)


def _random(length: int) -> str:
    return "".join(secrets.choice(_ALPHABET) for _ in range(length))


def _checksum(text: str) -> str:
    value, digits = zlib.crc32(text.encode()), ""
    for _ in range(_CHECKSUM_CHARS):
        value, digit = divmod(value, len(_ALPHABET))
        digits = _ALPHABET[digit] + digits
    return digits


class ApiKeys:
    """The keys of a database. ``environment`` is part of every key it issues, for example ``live``."""

    def __init__(self, database: Database, clock: Clock | None = None, *, environment: str = "live") -> None:
        self._database = database
        self._clock = clock or database.now
        self._environment = environment

    def issue(
        self,
        tenant: str,
        scopes: Sequence[str],
        *,
        label: str = "",
        expires_in_s: float | None = None,
        once: IdempotencyKey | None = None,
    ) -> IssuedKey:
        """A new key for a tenant that exists. Raises SecretShownError when ``once`` made one before."""
        now = self._clock()
        with self._writing(tenant, now, once) as connection:
            return self._issue(connection, now, tenant, scopes, label, expires_in_s, once)

    def rotate(
        self,
        tenant: str,
        key_id: str,
        *,
        overlap_s: float,
        within: Collection[str] | None = None,
        once: IdempotencyKey | None = None,
    ) -> IssuedKey:
        """A new key in the place of another, which goes on working for ``overlap_s``.

        ``within``: the scopes of whoever asks, who must not get a key that may do more. Raises NotFoundError,
        ForbiddenError, SecretShownError.
        """
        now = self._clock()
        with self._writing(tenant, now, once) as connection:
            old = self._live(connection, tenant, key_id, now)
            if within is not None and not set(old.scopes) <= set(within):
                raise ForbiddenError("that API key may do more than yours", {"scopes": sorted(old.scopes)})
            until = now + overlap_s
            outlives = sa.or_(table.c.expires_at.is_(None), table.c.expires_at > until)
            connection.execute(sa.update(table).where(table.c.id == key_id, outlives).values(expires_at=until))
            return self._issue(connection, now, tenant, old.scopes, old.label, None, once)

    def revoke(self, tenant: str, key_id: str) -> None:
        """End a key, everywhere within five seconds. Raises NotFoundError."""
        now = self._clock()
        with self._database.write(tenant) as connection:
            self._live(connection, tenant, key_id, now)
            connection.execute(sa.update(table).where(table.c.id == key_id).values(revoked_at=now))

    def list(self, tenant: str) -> list[KeyRecord]:
        """The tenant's keys, the newest first, the ended ones among them."""
        query = sa.select(table).where(owned_by(table, tenant)).order_by(table.c.created_at.desc(), table.c.id)
        with self._database.read(tenant) as connection:
            return [_record(row) for row in connection.execute(query)]

    def find(self, key_id: str) -> KeyRecord | None:
        """The record of a key that is valid now; of any tenant, for whoever checks keys."""
        with self._database.read() as connection:
            row = connection.execute(sa.select(table).where(table.c.id == key_id, _valid(self._clock()))).one_or_none()
        return None if row is None else _record(row)

    @contextlib.contextmanager
    def _writing(
        self, tenant: str, now: sa.ColumnElement[float], once: IdempotencyKey | None
    ) -> Iterator[sa.Connection]:
        try:
            with self._database.write(tenant) as connection:
                _refuse_again(connection, now, tenant, once)
                yield connection
        except ConflictError:
            # Two requests with one key at the same moment: the other's transaction was first.
            with self._database.read(tenant) as connection:
                _refuse_again(connection, now, tenant, once)
            raise

    def _live(self, connection: sa.Connection, tenant: str, key_id: str, now: sa.ColumnElement[float]) -> sa.Row[Any]:
        query = sa.select(table).where(table.c.id == key_id, owned_by(table, tenant), _valid(now))
        row = connection.execute(query.with_for_update()).one_or_none()
        if row is None:
            raise NotFoundError("there is no such API key")
        return row

    def _issue(
        self,
        connection: sa.Connection,
        now: sa.ColumnElement[float],
        tenant: str,
        scopes: Sequence[str],
        label: str,
        expires_in_s: float | None,
        once: IdempotencyKey | None,
    ) -> IssuedKey:
        key_id, key = _new_key(self._environment)
        values = {
            "id": key_id,
            "tenant": tenant,
            "sha256": digest(key),
            "scopes": list(scopes),
            "label": label,
            "created_at": now,
            "expires_at": None if expires_in_s is None else now + expires_in_s,
        }
        row = connection.execute(sa.insert(table).values(values).returning(*table.c)).one()
        if once is not None:
            idempotency.remember(connection, now, tenant, once, key_id)
        return IssuedKey(_record(row), key)


def _refuse_again(
    connection: sa.Connection, now: sa.ColumnElement[float], tenant: str, once: IdempotencyKey | None
) -> None:
    """A replay cannot show the key again, so it says which one it was."""
    found = None if once is None else idempotency.find(connection, now, tenant, once)
    if found is not None:
        raise SecretShownError("this request made an API key before, which is not shown again", {"key_id": found})


def _valid(now: sa.ColumnElement[float]) -> sa.ColumnElement[bool]:
    return sa.and_(table.c.revoked_at.is_(None), sa.or_(table.c.expires_at.is_(None), table.c.expires_at > now))


def _record(row: sa.Row[Any]) -> KeyRecord:
    values = {field.name: getattr(row, field.name) for field in dataclasses.fields(KeyRecord)}
    return KeyRecord(**values | {"scopes": tuple(row.scopes)})
