"""Who is calling: API keys and the tenants they stand for."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Iterable

from instantid_serve.errors import UnauthorizedError
from instantid_serve.settings import ApiKey


class Keyring:
    """The API keys that are valid. Only their SHA-256 is known here: 256 random bits need no slow hash."""

    def __init__(self, keys: Iterable[ApiKey]) -> None:
        self._keys = tuple(keys)

    def tenant(self, presented_key: str) -> str:
        """The tenant a key stands for. Raises UnauthorizedError for a key that is not valid.

        Every key is compared, each in constant time, so the time taken tells nothing about the keys there are.
        """
        presented = hashlib.sha256(presented_key.encode("utf-8", "surrogatepass")).hexdigest()
        found = [key.tenant for key in self._keys if hmac.compare_digest(key.sha256, presented)]
        if not found:
            raise UnauthorizedError("the API key is not valid")
        return found[0]
