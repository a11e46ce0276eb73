"""Brings photos in: from wherever they are to be had, through the gate, and into the result store."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import logging
from collections import Counter
from collections.abc import AsyncGenerator
from concurrent.futures import ThreadPoolExecutor

from instantid_serve import images
from instantid_serve.decoding import GuardedDecoder
from instantid_serve.errors import (
    ImageTooLargeError,
    InstantIDError,
    InvalidRequestError,
    NotFoundError,
    OverloadedError,
    RateLimitedError,
    UploadMissingError,
)
from instantid_serve.service.guarded_http import GuardedHttp
from instantid_serve.service.identities import Identities
from instantid_serve.service.results import ResultStore, upload_key
from instantid_serve.service.uploads import Uploads
from instantid_serve.serving.api.photo_sources import (
    IDENTITY_FIELD,
    GivenPhoto,
    IdentityPhotos,
    PhotoAt,
    PhotoSource,
    UploadedPhoto,
)

log = logging.getLogger(__name__)

_THREADS = 2  # one photo is decoded while another is stored
# Fetches at once by one replica. Slow hosts then hold up neither other tenants nor those who send their photo.
_MAX_FETCHES_OF_A_TENANT = 4
_MAX_FETCHES = 8


@dataclasses.dataclass(frozen=True, slots=True)
class StoredPhotos:
    """Photos as a job takes them: keys of the result store, the first one places the face.

    ``size``: width and height in pixels of the first one, upright. ``identity_id``: whose photos they are; they are
    the identity's then, and no job may remove them.
    """

    keys: tuple[str, ...]
    size: tuple[int, int]
    identity_id: str | None = None


class PhotoIntake:
    """Has threads of its own: photos that are slow to decode must not hold up those who ask for their jobs."""

    def __init__(
        self,
        store: ResultStore,
        decoder: GuardedDecoder,
        http: GuardedHttp,
        uploads: Uploads,
        identities: Identities,
        *,
        max_bytes: int,
        fetch_timeout_s: float,
    ) -> None:
        self._store = store
        self._decoder = decoder
        self._http = http
        self._uploads = uploads
        self._identities = identities
        self._max_bytes = max_bytes
        self._fetch_timeout_s = fetch_timeout_s
        self._fetching: Counter[str] = Counter()
        self._threads = ThreadPoolExecutor(_THREADS, thread_name_prefix="photos")

    async def photos(self, tenant: str, source: PhotoSource, owner_folder: str) -> StoredPhotos:
        """The photos of a source, stored: below ``owner_folder`` (a job's), or where its identity has them.

        Raises ImageError, UploadMissingError, UrlBlockedError, UrlFetchError, UrlTooLargeError and, for an identity
        that is not there, InvalidRequestError; RateLimitedError and OverloadedError for too many fetches at once;
        StoreError, DatabaseError.
        """
        if isinstance(source, IdentityPhotos):
            return await asyncio.to_thread(self._of_identity, tenant, source.identity_id)
        key = f"{owner_folder}/photo"
        return StoredPhotos((key,), await self.store(tenant, source, key))

    async def store(self, tenant: str, source: PhotoSource, key: str) -> tuple[int, int]:
        """Store one photo, upright and without metadata, and return its width and height. Raises as :meth:`photos`."""
        data = await self._data(tenant, source)
        return await asyncio.get_running_loop().run_in_executor(self._threads, self._pass_gate, data, key)

    async def discard(self, owner_folder: str) -> None:
        """Remove what was stored for a job or an identity that did not come to be. Whatever stays is swept later."""
        try:
            await asyncio.to_thread(self._store.delete_all, owner_folder)
        except InstantIDError:  # the first error is the one to answer with
            log.warning("photos without an owner stay in the result store until they are swept", exc_info=True)

    def _pass_gate(self, data: bytes, key: str) -> tuple[int, int]:
        images.inspect(data, max_bytes=self._max_bytes)
        upright = self._decoder.normalise(data)
        header = images.inspect(upright, max_bytes=len(upright))
        self._store.put(key, upright, images.MEDIA_TYPES["png"])
        return header.width, header.height

    async def _data(self, tenant: str, source: PhotoSource) -> bytes:
        """The bytes as they came: nothing is known of them yet."""
        match source:
            case GivenPhoto(data):
                return data
            case UploadedPhoto(upload_id):
                return await asyncio.to_thread(self._uploaded, tenant, upload_id)
            case PhotoAt(url):
                async with self._room_to_fetch(tenant):
                    found = await self._http.fetch(url, max_bytes=self._max_bytes, timeout_s=self._fetch_timeout_s)
                return found.content
            case IdentityPhotos():
                raise InvalidRequestError("an identity is no photo")

    def _uploaded(self, tenant: str, upload_id: str) -> bytes:
        try:
            key = upload_key(tenant, self._uploads.get(tenant, upload_id).id)
            size_bytes = self._store.size(key)
            if size_bytes is None:
                raise UploadMissingError("nothing was uploaded there yet")
            if size_bytes > self._max_bytes:  # before a byte of it is read
                limit = {"max_bytes": self._max_bytes}
                raise ImageTooLargeError(f"the photo must be at most {self._max_bytes} bytes", limit)
            return self._store.get(key)
        except NotFoundError:
            raise UploadMissingError("there is no such upload, or it is past its time") from None

    def _of_identity(self, tenant: str, identity_id: str) -> StoredPhotos:
        try:
            identity = self._identities.get(tenant, identity_id)
        except NotFoundError:
            detail = "there is no such identity, or it is past its time"
            facts = {"errors": [{"pointer": f"/{IDENTITY_FIELD}", "detail": detail}]}
            raise InvalidRequestError(detail, facts) from None
        first = identity.photos[0]
        return StoredPhotos(
            tuple(photo.key for photo in identity.photos), (first.width, first.height), identity_id=identity.id
        )

    @contextlib.asynccontextmanager
    async def _room_to_fetch(self, tenant: str) -> AsyncGenerator[None]:
        if self._fetching.total() >= _MAX_FETCHES:
            raise OverloadedError("too many photos are being fetched", {"retry_after_s": 1})
        if self._fetching[tenant] >= _MAX_FETCHES_OF_A_TENANT:
            raise RateLimitedError("too many photos are being fetched for this tenant", {"retry_after_s": 1})
        self._fetching[tenant] += 1
        try:
            yield
        finally:
            self._fetching -= Counter([tenant])  # also forgets who has none
