"""Where photos and pictures lie: a folder on a laptop, an S3 bucket in a cluster.

An object is written once. Writing the same bytes under the same key again is fine, as a retry does; writing others is
refused, so no late worker changes a result that a tenant may have seen.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Protocol

from instantid_serve.errors import InvalidRequestError
from instantid_serve.messages import ImageFormat
from instantid_serve.service.folder_store import FolderStore
from instantid_serve.service.s3_store import S3Store, UploadLink
from instantid_serve.settings import FolderStoreSettings, S3StoreSettings

_PARTS = {
    "tenant": re.compile(r"[a-z0-9][a-z0-9-]{0,62}"),
    "job_id": re.compile(r"gen_[0-9a-z]{1,40}"),
    "identity_id": re.compile(r"idn_[0-9a-z]{1,40}"),
    "upload_id": re.compile(r"upl_[0-9a-z]{1,40}"),
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

    def size(self, key: str) -> int | None:
        """The object's bytes, counted; None when there is no such object."""

    def delete(self, key: str) -> None:
        """Remove the object, if it is there."""

    def delete_all(self, folder_key: str) -> None:
        """Remove every object below a folder of :func:`job_folder`, :func:`identity_folder` or :func:`upload_folder`.

        Stopped in the middle, it is done again; what is written meanwhile may stay.
        """

    def folders(self) -> Iterator[str]:
        """The folders in which something lies, of all tenants, a page at a time: what :meth:`delete_all` takes."""

    def link(self, key: str, *, media_type: str, filename: str, expires_s: float) -> str | None:
        """A URL at which anyone can read the object for so many seconds (at most 900), under that type and name.

        None where the store has no addresses of its own. Nothing is asked: the object may be missing.
        """

    def upload_link(self, key: str, *, media_type: str, size_bytes: int, expires_s: float) -> UploadLink | None:
        """How anyone can write the object, once and of exactly that type and size, for so many seconds (at most 900).

        None where the store has no addresses of its own.
        """

    def ping(self) -> None:
        """Raises StoreError unless the store can be written to now (a folder), or reached (a bucket)."""


def open_store(settings: FolderStoreSettings | S3StoreSettings) -> ResultStore:
    """The store that the settings name. Raises ConfigurationError when it cannot be one."""
    if isinstance(settings, S3StoreSettings):
        return S3Store(settings)
    return FolderStore(settings.folder)


def job_folder(tenant: str, job_id: str) -> str:
    """What holds all objects of a job, whichever attempt wrote them. Raises InvalidRequestError as all of these do."""
    return f"{_checked('tenant', tenant)}/{_checked('job_id', job_id)}"


def identity_folder(tenant: str, identity_id: str) -> str:
    """What holds an identity's photos."""
    return f"{_checked('tenant', tenant)}/{_checked('identity_id', identity_id)}"


def upload_folder(tenant: str, upload_id: str) -> str:
    """What holds the bytes of an upload."""
    return f"{_checked('tenant', tenant)}/{_checked('upload_id', upload_id)}"


def photo_key(tenant: str, job_id: str) -> str:
    """Where a job's photo lies. Raises InvalidRequestError unless both are well-formed ids."""
    return f"{job_folder(tenant, job_id)}/photo"


def identity_photo_key(tenant: str, identity_id: str, index: int) -> str:
    """Where an identity's photo ``index`` lies."""
    return f"{identity_folder(tenant, identity_id)}/{index:d}"


def upload_key(tenant: str, upload_id: str) -> str:
    """Where the bytes of an upload lie: as they came, unchecked."""
    return f"{upload_folder(tenant, upload_id)}/content"


def tenant_of(key: str) -> str:
    """Whose object a key names."""
    return key.partition("/")[0]


def image_key(tenant: str, job_id: str, attempt: int, index: int, image_format: ImageFormat) -> str:
    """Where picture ``index`` lies. The ``attempt`` (the claim's fence) keeps one worker's pictures from another's.

    Raises InvalidRequestError unless every part is well-formed.
    """
    if attempt < 0 or index < 0:
        raise InvalidRequestError("attempt and index of a result's key cannot be negative")
    return f"{job_folder(tenant, job_id)}/{attempt:d}/{index:d}.{_checked('format', image_format)}"


def _checked(name: str, value: str) -> str:
    if not _PARTS[name].fullmatch(value):
        raise InvalidRequestError(f"the {name} cannot be part of a result's key", {"parameter": name})
    return value
