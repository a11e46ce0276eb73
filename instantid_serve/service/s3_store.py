"""Objects in an S3 bucket, of AWS or of any store that speaks its protocol with conditional writes."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import boto3
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

from instantid_serve.errors import ConfigurationError, ConflictError, NotFoundError, StoreError
from instantid_serve.service.folder_store import check_key
from instantid_serve.settings import S3StoreSettings

_CONNECTIONS = 32  # botocore's default of 10 makes a busy replica's threads wait for each other
_MISSING = frozenset({"NoSuchKey", "404"})
_TAKEN = frozenset({"PreconditionFailed", "412"})
_RACING = frozenset({"ConditionalRequestConflict", "409"})  # another write of the key is under way: S3 says try again


class S3Store:
    """A bucket as a result store. boto3 clients are safe to share between threads."""

    def __init__(self, settings: S3StoreSettings) -> None:
        self._bucket = settings.bucket
        self._prefix = f"{settings.prefix.strip('/')}/" if settings.prefix.strip("/") else ""
        config = Config(
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
            self._client = boto3.session.Session().client("s3", endpoint_url=settings.endpoint_url, config=config)
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
            return self._client.get_object(Bucket=self._bucket, Key=self._full(key))["Body"].read()

    def delete(self, key: str) -> None:
        """Remove the object, if it is there; see ResultStore."""
        with _translated_errors():
            self._client.delete_object(Bucket=self._bucket, Key=self._full(key))

    def ping(self) -> None:
        """Raises StoreError unless the bucket can be reached."""
        try:
            with _translated_errors():
                self._client.head_bucket(Bucket=self._bucket)
        except NotFoundError as error:
            raise StoreError("the bucket of the result store does not exist") from error

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
