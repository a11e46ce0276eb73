"""The manifest of a model folder: where every file comes from, how long it is, and its SHA-256.

``check_manifest`` runs before anything is loaded. A file that is not byte for byte the one the manifest names, or a
file no one vouches for, is refused by name. The manifest carries a seal, its own SHA-256, so that damage to it is
found too; it does not protect against someone who may write to the folder and can make a new manifest.
"""

from __future__ import annotations

import dataclasses
import hashlib
import importlib.metadata
import json
import os
import stat
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path, PurePosixPath
from typing import Annotated, Literal, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator

from instantid_serve.errors import WeightsError

MANIFEST_NAME = "manifest.json"
_MAX_MANIFEST_BYTES = 4_000_000
_HASHING_THREADS = 4  # SHA-256 releases the GIL; more threads than this only make a disk seek
# Files nobody loads may lie about unlisted. Everything else, weights, configurations and code alike, must be listed.
_HARMLESS_SUFFIXES = frozenset({".md", ".png", ".jpg"})
_HARMLESS_NAMES = frozenset({".DS_Store", ".gitattributes", ".gitignore", "LICENSE", "LICENSE.txt", "NOTICE"})

CheckProgress = Callable[[str, int, int], None]
"""Called after each file with its path, the bytes checked so far and the bytes of all files."""


@dataclasses.dataclass(frozen=True, slots=True)
class Origin:
    """Where files come from (``repo@revision``, a URL or ``made``) and under which licence."""

    source: str
    licence: str


def _inside(path: str) -> str:
    parts = PurePosixPath(path).parts
    if not parts or path != str(PurePosixPath(*parts)) or "\\" in path or path == MANIFEST_NAME:
        raise ValueError("is not the plain relative path of a file")
    if parts[0] == "/" or ".." in parts:
        raise ValueError("leads out of the folder")
    return path


class _Entry(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class ManifestFile(_Entry):
    """One file of the folder."""

    path: Annotated[str, AfterValidator(_inside)]
    size_bytes: int = Field(ge=0)
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")
    source: str
    licence: str


class Manifest(_Entry):
    """What a model folder holds."""

    format: Literal[1] = 1
    preset: str
    created_by: str
    files: tuple[ManifestFile, ...] = Field(min_length=1, strict=False)
    seal: str = ""

    @model_validator(mode="after")
    def _paths_are_unique(self) -> Self:
        if len({file.path for file in self.files}) != len(self.files):
            raise ValueError("a path is listed twice")
        return self

    def sealed(self) -> Manifest:
        """The same manifest with the seal its other fields need."""
        text = self.model_copy(update={"seal": ""}).to_json()
        return self.model_copy(update={"seal": hashlib.sha256(text.encode()).hexdigest()})

    def to_json(self) -> str:
        """The one way a manifest is written: sorted keys, so that equal folders have equal manifests."""
        return json.dumps(self.model_dump(), indent=1, sort_keys=True) + "\n"


def write_manifest(
    folder: Path, preset: str, sources: Mapping[str, Origin], *, known: Mapping[str, Origin] | None = None
) -> Manifest:
    """Hash every file of ``folder`` and write its manifest, in one step that leaves no half-written one.

    ``sources``: path prefix to origin, the longest prefix wins, ``""`` stands for the rest. ``known``: SHA-256 to
    origin, above the sources. Raises WeightsError for a file without an origin, a symlink, or an empty folder.
    """
    part = folder / f".{MANIFEST_NAME}.part"
    part.unlink(missing_ok=True)  # of a process that died here
    names = [name for name in _files(folder) if not _is_harmless(name)]
    if not names:
        raise WeightsError(f"there are no files in {folder.name}")
    with ThreadPoolExecutor(_HASHING_THREADS) as pool:
        digests = list(pool.map(lambda name: _digest(folder, name), names))
    files = tuple(
        _describe(folder, name, digest, (known or {}).get(digest) or _origin(name, sources))
        for name, digest in zip(names, digests, strict=True)
    )
    manifest = Manifest(preset=preset, created_by=f"instantid-serve {_version()}", files=files).sealed()
    part.write_text(manifest.to_json(), encoding="utf-8")
    part.replace(folder / MANIFEST_NAME)
    return manifest


def read_manifest(folder: Path) -> Manifest:
    """Read and check the manifest alone, not the files. Raises WeightsError when it is missing or damaged."""
    try:
        with (folder / MANIFEST_NAME).open("rb") as file:
            raw = file.read(_MAX_MANIFEST_BYTES)
    except OSError as error:
        raise _refusal(MANIFEST_NAME, f"is missing from {folder}") from error
    try:
        manifest = Manifest.model_validate_json(raw)
    except ValidationError as error:
        fault = error.errors(include_input=False, include_url=False)[0]
        where = ".".join(str(part) for part in fault["loc"])
        raise _refusal(MANIFEST_NAME, f"is damaged: {where} {fault['msg']}".replace("  ", " ")) from error
    # Compared as bytes: then not even a changed blank goes unseen.
    if manifest.sealed().to_json().encode() != raw:
        raise _refusal(MANIFEST_NAME, "is damaged: its seal does not fit")
    return manifest


def check_manifest(folder: Path, *, progress: CheckProgress | None = None) -> Manifest:
    """Check that ``folder`` holds exactly the files its manifest names. Nothing is loaded.

    Raises WeightsError naming the first file that is missing, of another size or content, unlisted, or a symlink.
    """
    manifest = read_manifest(folder)
    listed = {file.path: file for file in manifest.files}
    present = set(_files(folder))
    for name in sorted(present - set(listed)):
        if not _is_harmless(name):
            raise _refusal(name, "is not in the manifest")
    for file in manifest.files:
        if file.path not in present:
            raise _refusal(file.path, "is missing")
        size_bytes = (folder / file.path).stat().st_size
        if size_bytes != file.size_bytes:
            raise _refusal(file.path, f"has {size_bytes} bytes, not the {file.size_bytes} of the manifest")
    _check_contents(folder, manifest, progress)
    return manifest


def file_sha256(path: Path) -> str:
    """The SHA-256 of a file, in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _check_contents(folder: Path, manifest: Manifest, progress: CheckProgress | None) -> None:
    total_bytes = sum(file.size_bytes for file in manifest.files)
    done_bytes = 0
    with ThreadPoolExecutor(_HASHING_THREADS) as pool:
        digests = pool.map(lambda file: _digest(folder, file.path), manifest.files)
        for file, digest in zip(manifest.files, digests, strict=True):
            if digest != file.sha256:
                pool.shutdown(wait=False, cancel_futures=True)
                raise _refusal(file.path, "does not have the SHA-256 of the manifest")
            done_bytes += file.size_bytes
            if progress is not None:
                progress(file.path, done_bytes, total_bytes)


def _digest(folder: Path, name: str) -> str:
    try:
        return file_sha256(folder / name)
    except OSError as error:
        raise _refusal(name, f"cannot be read ({error.strerror})") from error


def _files(folder: Path) -> Iterator[str]:
    """The folder's files by relative path, sorted, without the manifest. Raises WeightsError for a link or device."""
    found = []
    for parent, folders, names in os.walk(folder):
        for name in (*folders, *names):
            path = Path(parent, name)
            relative = path.relative_to(folder).as_posix()
            mode = path.lstat().st_mode
            if stat.S_ISLNK(mode) or not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
                # What a link points to can change behind the manifest's back.
                raise _refusal(relative, "is a symlink or a device, not a file of this folder")
            if stat.S_ISREG(mode) and relative != MANIFEST_NAME:
                found.append(relative)
    return iter(sorted(found))


def _is_harmless(name: str) -> bool:
    path = PurePosixPath(name)
    return path.name in _HARMLESS_NAMES or path.suffix.lower() in _HARMLESS_SUFFIXES


def _origin(name: str, sources: Mapping[str, Origin]) -> Origin:
    prefixes = [prefix for prefix in sources if name.startswith(prefix)]
    if not prefixes:
        raise _refusal(name, "has no known source")
    return sources[max(prefixes, key=len)]


def _describe(folder: Path, name: str, digest: str, origin: Origin) -> ManifestFile:
    return ManifestFile(
        path=name,
        size_bytes=(folder / name).stat().st_size,
        sha256=digest,
        source=origin.source,
        licence=origin.licence,
    )


def _version() -> str:
    try:
        return importlib.metadata.version("instantid-serve")
    except importlib.metadata.PackageNotFoundError:  # run from a source tree that is not installed
        return "unknown"


def _refusal(name: str, fault: str) -> WeightsError:
    return WeightsError(f"the model file {name} {fault}", {"file": name})
