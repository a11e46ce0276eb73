"""Where photos and pictures lie: a folder on a laptop, an S3 bucket in a cluster.

An object is written once. Writing the same bytes under the same key again is fine, as a retry does; writing others is
refused, so no late worker changes a result that a tenant may have seen.
"""

from __future__ import annotations

import re
from typing import Protocol

from instantid_serve.errors import InvalidRequestError
from instantid_serve.messages import ImageFormat
from instantid_serve.service.folder_store import FolderStore
from instantid_serve.service.s3_store import S3Store
from instantid_serve.settings import FolderStoreSettings, S3StoreSettings

_PARTS = {
    "tenant": re.compile(r"[a-z0-9][a-z0-9-]{0,62}"),
    "job_id": re.compile(r"gen_[0-9a-z]{1,40}"),
    "format": re.compile(r"png|jpeg|webp"),
}


class ResultStore(Protocol):
    """Objects under keys. All methods block, with timeouts; asynchronous callers use ``asyncio.to_thread``.

    Each raises StoreError when the store does not answer, and InvalidRequestError for a key no key function made.
    """

    def put(self, key: str, data: bytes, media_type: str) -> None:
        """Write an object, durable when this returns. Raises ConflictError when the key holds other bytes."""

    def get(self, key: str) -> bytes:
        """The object's bytes. Raises NotFoundError."""

    def delete(self, key: str) -> None:
        """Remove the object, if it is there."""

    def ping(self) -> None:
        """Raises StoreError unless the store can be written to now (a folder), or reached (a bucket)."""


def open_store(settings: FolderStoreSettings | S3StoreSettings) -> ResultStore:
    """The store that the settings name. Raises ConfigurationError when it cannot be one."""
    if isinstance(settings, S3StoreSettings):
        return S3Store(settings)
    return FolderStore(settings.folder)


def photo_key(tenant: str, job_id: str) -> str:
    """Where a job's photo lies. Raises InvalidRequestError unless both are well-formed ids."""
    return f"{_checked('tenant', tenant)}/{_checked('job_id', job_id)}/photo"


def tenant_of(key: str) -> str:
    """Whose object a key of :func:`photo_key` or :func:`image_key` names."""
    return key.partition("/")[0]


def image_key(tenant: str, job_id: str, attempt: int, index: int, image_format: ImageFormat) -> str:
    """Where picture ``index`` lies. The ``attempt`` (the claim's fence) keeps one worker's pictures from another's.

    Raises InvalidRequestError unless every part is well-formed.
    """
    if attempt < 0 or index < 0:
        raise InvalidRequestError("attempt and index of a result's key cannot be negative")
    folder = f"{_checked('tenant', tenant)}/{_checked('job_id', job_id)}"
    return f"{folder}/{attempt:d}/{index:d}.{_checked('format', image_format)}"


def _checked(name: str, value: str) -> str:
    if not _PARTS[name].fullmatch(value):
        raise InvalidRequestError(f"the {name} cannot be part of a result's key", {"parameter": name})
    return value
