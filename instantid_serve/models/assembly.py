"""From checked downloads to a model folder: files put in their places, the face pack unpacked, pickles converted."""

from __future__ import annotations

import os
import shutil
import zipfile
import zlib
from pathlib import Path, PurePosixPath

from instantid_serve.errors import WeightsError
from instantid_serve.models.conversion import convert_ip_adapter
from instantid_serve.models.presets import Archive, Pin
from instantid_serve.models.weights import file_sha256

_COPY_BYTES = 1 << 20


def place(download: Path, target: Path) -> None:
    """Put one download in its place; the identity adapter's pickle is converted on the way.

    Linked where the file system can, so that a download stays whole until the folder is, without its bytes twice.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    if download.suffix == ".bin":
        convert_ip_adapter(download, target)
        return
    try:
        os.link(download, target)
    except OSError:
        shutil.copyfile(download, target)


def unpack(archive_file: Path, archive: Archive, folder: Path) -> None:
    """Take the pinned files, and only those, out of a zip file, wherever in it they lie.

    No name of the archive becomes a path. Raises WeightsError for a broken archive, a file that is missing or there
    twice, or one that is not the pinned one.
    """
    try:
        with zipfile.ZipFile(archive_file) as opened:
            for pin in archive.files:
                _unpack_one(opened, pin, folder / pin.target)
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError) as error:
        raise WeightsError(f"{archive_file.name} is not a readable zip file ({error})") from error


def _unpack_one(opened: zipfile.ZipFile, pin: Pin, target: Path) -> None:
    members = [m for m in opened.infolist() if PurePosixPath(m.filename).name == pin.path and not m.is_dir()]
    if len(members) != 1:
        raise WeightsError(f"the face pack holds {len(members)} files {pin.path}, not one", {"file": pin.path})
    if members[0].file_size != pin.size_bytes:
        # The header's word is held to: zipfile stops reading there, so no archive can fill the disk.
        raise WeightsError(f"{pin.path} in the face pack has another size than the pinned one", {"file": pin.path})
    target.parent.mkdir(parents=True, exist_ok=True)
    with opened.open(members[0]) as packed, target.open("wb") as file:
        shutil.copyfileobj(packed, file, _COPY_BYTES)
    if file_sha256(target) != pin.sha256:
        raise WeightsError(f"{pin.path} in the face pack does not have the pinned SHA-256", {"file": pin.path})
