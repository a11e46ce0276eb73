"""Objects in an S3 bucket, of AWS or of any store that speaks its protocol with conditional writes."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any

import boto3
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

from instantid_serve.errors import ConfigurationError, ConflictError, NotFoundError, StoreError
from instantid_serve.service.folder_store import check_folder, check_key
from instantid_serve.settings import S3StoreSettings

_CONNECTIONS = 32  # botocore's default of 10 makes a busy replica's threads wait for each other
_MISSING = frozenset({"NoSuchKey", "404"})
_TAKEN = frozenset({"PreconditionFailed", "412"})
_RACING = frozenset({"ConditionalRequestConflict", "409"})  # another write of the key is under way: S3 says try again
_LONGEST_LINK_S = 900.0


@dataclasses.dataclass(frozen=True, slots=True)
class UploadLink:
    """How to write an object: a ``method`` on a ``url`` with all of these ``headers``, for ``expires_s`` seconds."""

    method: str
    url: str
    headers: Mapping[str, str]
    expires_s: float


class S3Store:
    """A bucket as a result store. boto3 clients are safe to share between threads."""

    def __init__(self, settings: S3StoreSettings) -> None:
        self._bucket = settings.bucket
        self._prefix = f"{settings.prefix.strip('/')}/" if settings.prefix.strip("/") else ""
        self._config = Config(
            signature_version="s3v4",  # else boto3 signs links the old way, which leaves headers out
            region_name=settings.region,
            connect_timeout=settings.connect_timeout_s,
            read_timeout=settings.read_timeout_s,
            retries={"mode": "standard", "total_max_attempts": settings.max_attempts},
            max_pool_connections=_CONNECTIONS,
            s3={"addressing_style": settings.addressing_style},
            request_checksum_calculation=settings.checksums,
            response_checksum_validation=settings.checksums,
        )
        self._attempts = settings.max_attempts
        try:
            self._client = self._open(settings.endpoint_url)
            # Without checksums: whoever uses a link would have to send the checksum of the bytes that boto3 signed.
            links = Config(request_checksum_calculation="when_required")
            self._signer = self._open(settings.public_endpoint_url or settings.endpoint_url, links)
        except (BotoCoreError, ValueError) as error:
            raise ConfigurationError(f"results: the S3 client cannot be made: {error}") from error

    def put(self, key: str, data: bytes, media_type: str) -> None:
        """Write an object; see :class:`~instantid_serve.service.results.ResultStore`."""
        for _ in range(self._attempts):
            try:
                with _translated_errors():
                    self._client.put_object(
                        Bucket=self._bucket, Key=self._full(key), Body=data, ContentType=media_type, IfNoneMatch="*"
                    )
            except _RacingError:
                continue
            except ConflictError:
                if self.get(key) != data:
                    raise
            return
        raise StoreError("the result is being written by others all the time")

    def get(self, key: str) -> bytes:
        """The object's bytes; see ResultStore."""
        with _translated_errors():
            return bytes(self._client.get_object(Bucket=self._bucket, Key=self._full(key))["Body"].read())

    def size(self, key: str) -> int | None:
        """The object's bytes, counted, or None; see ResultStore."""
        try:
            with _translated_errors():
                return int(self._client.head_object(Bucket=self._bucket, Key=self._full(key))["ContentLength"])
        except NotFoundError:
            return None

    def delete(self, key: str) -> None:
        """Remove the object, if it is there; see ResultStore."""
        with _translated_errors():
            self._client.delete_object(Bucket=self._bucket, Key=self._full(key))

    def delete_all(self, folder_key: str) -> None:
        """Remove every object below the folder; see ResultStore."""
        prefix = f"{self._prefix}{check_folder(folder_key)}/"
        with _translated_errors():
            # One by one: a folder holds few, and not every store takes the request for many.
            for page in self._pages(Prefix=prefix):
                for found in page.get("Contents", ()):
                    self._client.delete_object(Bucket=self._bucket, Key=found["Key"])

    def folders(self) -> Iterator[str]:
        """The folders in which something lies; see ResultStore."""
        with _translated_errors():
            for tenant in self._below(self._prefix):
                for folder in self._below(tenant):
                    yield folder.removeprefix(self._prefix).rstrip("/")

    def link(self, key: str, *, media_type: str, filename: str, expires_s: float) -> str:
        """A URL at which the object can be read; see ResultStore."""
        named = {
            "ResponseContentType": media_type,
            "ResponseContentDisposition": f'attachment; filename="{filename}"',
        }
        return self._signed("get_object", key, expires_s, named)

    def upload_link(self, key: str, *, media_type: str, size_bytes: int, expires_s: float) -> UploadLink:
        """How the object can be written; see ResultStore."""
        # All three become headers that the signature covers, so that nothing else, and nothing twice, can be written.
        bounds = {"ContentType": media_type, "ContentLength": size_bytes, "IfNoneMatch": "*"}
        url = self._signed("put_object", key, expires_s, bounds)
        headers = {"Content-Type": media_type, "Content-Length": str(size_bytes), "If-None-Match": "*"}
        return UploadLink("PUT", url, headers, min(expires_s, _LONGEST_LINK_S))

    def ping(self) -> None:
        """Raises StoreError unless the bucket can be reached."""
        try:
            with _translated_errors():
                self._client.head_bucket(Bucket=self._bucket)
        except NotFoundError as error:
            raise StoreError("the bucket of the result store does not exist") from error

    def _open(self, endpoint_url: str | None, changes: Config | None = None) -> Any:  # noqa: ANN401 - made at runtime
        config = self._config.merge(changes) if changes else self._config
        return boto3.session.Session().client("s3", endpoint_url=endpoint_url, config=config)

    def _signed(self, operation: str, key: str, expires_s: float, parameters: Mapping[str, Any]) -> str:
        named = {"Bucket": self._bucket, "Key": self._full(key), **parameters}
        with _translated_errors():
            lasts_s = int(min(expires_s, _LONGEST_LINK_S))
            return str(self._signer.generate_presigned_url(operation, Params=named, ExpiresIn=lasts_s))

    def _pages(self, **which: str) -> Iterator[Mapping[str, Any]]:
        yield from self._client.get_paginator("list_objects_v2").paginate(Bucket=self._bucket, **which)

    def _below(self, prefix: str) -> Iterator[str]:
        """The next parts of keys after the prefix, each with it and the slash at its end."""
        for page in self._pages(Prefix=prefix, Delimiter="/"):
            yield from (found["Prefix"] for found in page.get("CommonPrefixes", ()))

    def _full(self, key: str) -> str:
        return self._prefix + check_key(key)


class _RacingError(StoreError):
    """Another write of the same key is under way."""


@contextlib.contextmanager
def _translated_errors() -> Iterator[None]:
    """The one place where botocore's errors become ours."""
    try:
        yield
    except ClientError as error:
        code = error.response.get("Error", {}).get("Code", "")
        if code in _MISSING:
            raise NotFoundError("there is no such result") from error
        if code in _TAKEN:
            raise ConflictError("the result exists already, with other content") from error
        if code in _RACING:
            raise _RacingError from error
        raise StoreError("the result store refuses", {"reason": code}) from error
    except BotoCoreError as error:
        raise StoreError("the result store does not answer", {"reason": type(error).__name__}) from error
