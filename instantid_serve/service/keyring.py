"""Who is calling: the tenant that an API key stands for, and what the key may do."""

from __future__ import annotations

import dataclasses
import hmac
import threading
from collections.abc import Sequence

from cachetools import TTLCache

from instantid_serve.errors import NotFoundError, UnauthorizedError
from instantid_serve.service import api_keys
from instantid_serve.service.api_keys import ApiKeys
from instantid_serve.service.tenants import Tenant, Tenants
from instantid_serve.settings import TENANT_SCOPES, ApiKey

_REMEMBERED = 10_000  # keys and wrong guesses


@dataclasses.dataclass(frozen=True, slots=True)
class Caller:
    """A tenant, and what the key it came with may do. ``key_id``: "" for a key of the config file."""

    tenant: Tenant
    key_id: str
    scopes: frozenset[str]


class Keyring:
    """The keys of the config file and those of the database.

    What the database said is remembered for ``remembered_s`` (seconds): so long a revoked key may still work, and a
    tenant's new limits may not hold yet.
    """

    def __init__(self, configured: Sequence[ApiKey], keys: ApiKeys, tenants: Tenants, *, remembered_s: float) -> None:
        self._configured = tuple(configured)
        self._keys = keys
        self._tenants = tenants
        self._known: TTLCache[str, Caller | None] = TTLCache(_REMEMBERED, remembered_s)
        self._lock = threading.Lock()

    def remembered(self, presented: str) -> Caller | None:
        """The caller, if it is in memory; never waits. Raises UnauthorizedError for a key known to be wrong."""
        digest = api_keys.digest(presented)
        with self._lock:
            if digest not in self._known:
                return None
            return _required(self._known[digest])

    def caller(self, presented: str) -> Caller:
        """Whose key that is. Raises UnauthorizedError for one that is not valid, DatabaseError."""
        digest = api_keys.digest(presented)
        found = self._look_up(presented, digest)
        with self._lock:
            self._known[digest] = found
        return _required(found)

    def _look_up(self, presented: str, digest: str) -> Caller | None:
        for key in self._configured:  # each compared in constant time, so the time taken tells nothing about them
            if hmac.compare_digest(key.sha256, digest):
                return Caller(self._tenants.ensure(key.tenant), "", frozenset(key.scopes))
        key_id = api_keys.id_of(presented)
        record = None if key_id is None else self._keys.find(key_id)
        if record is None or not hmac.compare_digest(record.sha256, digest):
            return None
        try:
            # Operators are named in the config file alone: writing to the database makes nobody one.
            scopes = frozenset(record.scopes) & frozenset(TENANT_SCOPES)
            return Caller(self._tenants.get(record.tenant), record.id, scopes)
        except NotFoundError:  # a key outlived its tenant
            return None


def _required(found: Caller | None) -> Caller:
    if found is None:
        raise UnauthorizedError("the API key is not valid")
    return found
