"""Objects as files of one folder, for a laptop and for tests."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from instantid_serve.errors import ConflictError, InvalidRequestError, NotFoundError, StoreError

# No dot begins a part, so no key climbs out of the folder or meets a temporary file.
_KEY = re.compile(r"[a-z0-9][a-z0-9_.-]*(/[a-z0-9][a-z0-9_.-]*)*")
# A tenant and something of it: nothing above that is ever removed at once.
_FOLDER = re.compile(r"[a-z0-9][a-z0-9-]{0,62}/(?:gen|idn|upl)_[0-9a-z]{1,40}")
_LONGEST_KEY = 512
_TEMPORARY = ".put-"


def check_key(key: str) -> str:
    """Return the key. Raises InvalidRequestError for one that no key function makes."""
    if len(key) > _LONGEST_KEY or not _KEY.fullmatch(key):
        raise InvalidRequestError("that is not a key of a result")
    return key


def check_folder(key: str) -> str:
    """Return the key. Raises InvalidRequestError for one that names no folder of a job, an identity or an upload."""
    if not _FOLDER.fullmatch(key):
        raise InvalidRequestError("that is not a folder of results")
    return key


class FolderStore:
    """A folder as a result store. The media type is not kept: the key's ending tells it."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        with _translated_errors():
            folder.mkdir(parents=True, exist_ok=True)

    def put(self, key: str, data: bytes, media_type: str) -> None:  # noqa: ARG002 - the protocol's signature
        """Write an object; see :class:`~instantid_serve.service.results.ResultStore`."""
        path = self._path(key)
        with _translated_errors():
            path.parent.mkdir(parents=True, exist_ok=True)
            try:
                _write_new(path, data)
            except FileExistsError:
                if path.read_bytes() != data:
                    raise ConflictError("the result exists already, with other content") from None
            for folder in path.parents:  # the folders may be new, too
                _sync_folder(folder)
                if folder == self._folder:
                    break

    def get(self, key: str) -> bytes:
        """The object's bytes; see ResultStore."""
        path = self._path(key)
        with _translated_errors():
            try:
                return path.read_bytes()
            except (FileNotFoundError, IsADirectoryError, NotADirectoryError) as error:
                raise NotFoundError("there is no such result") from error

    def size(self, key: str) -> int | None:
        """The object's bytes, counted, or None; see ResultStore."""
        path = self._path(key)
        with _translated_errors():
            try:
                return path.stat().st_size if path.is_file() else None
            except (FileNotFoundError, NotADirectoryError):
                return None

    def delete(self, key: str) -> None:
        """Remove the object, if it is there; see ResultStore."""
        path = self._path(key)
        with _translated_errors():
            path.unlink(missing_ok=True)

    def delete_all(self, folder_key: str) -> None:
        """Remove every object below the folder; see ResultStore."""
        path = self._folder / check_folder(folder_key)
        with _translated_errors(), contextlib.suppress(FileNotFoundError):
            shutil.rmtree(path)
            _sync_folder(path.parent)

    def folders(self) -> Iterator[str]:
        """The folders in which something lies; see ResultStore."""
        with _translated_errors():
            for tenant in self._folder.iterdir():
                for path in tenant.iterdir() if tenant.is_dir() else ():
                    key = f"{tenant.name}/{path.name}"
                    if _FOLDER.fullmatch(key):
                        yield key

    def link(self, key: str, *, media_type: str, filename: str, expires_s: float) -> None:
        """None: files have no address."""

    def upload_link(self, key: str, *, media_type: str, size_bytes: int, expires_s: float) -> None:
        """None: files have no address."""

    def ping(self) -> None:
        """Raises StoreError unless a file can be written now."""
        with _translated_errors(), tempfile.TemporaryFile(dir=self._folder) as file:
            file.write(b"ping")

    def _path(self, key: str) -> Path:
        return self._folder / check_key(key)


def _write_new(path: Path, data: bytes) -> None:
    """Write the whole file or nothing, durably. Raises FileExistsError, which renaming over it would not."""
    descriptor, temporary = tempfile.mkstemp(prefix=_TEMPORARY, dir=path.parent)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.link(temporary, path)
    finally:
        Path(temporary).unlink()


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def _translated_errors() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise StoreError("the result store does not answer", {"reason": error.strerror or ""}) from error
