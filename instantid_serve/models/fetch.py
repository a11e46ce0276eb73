"""Putting a model folder in place: everything is downloaded, checked and assembled beside it, then renamed.

The downloads lie in ``.NAME.fetching`` beside the folder until it is complete, so a call that was cut off goes on where
it stopped. At serving time nothing is fetched.
"""

from __future__ import annotations

import dataclasses
import re
import shutil
from pathlib import Path, PurePosixPath

import httpx2
from filelock import FileLock, Timeout
from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

from instantid_serve.errors import WeightsError
from instantid_serve.models import assembly, hub
from instantid_serve.models.download import TIMEOUT, download
from instantid_serve.models.layout import choose_configuration, copy_base, require_parts
from instantid_serve.models.presets import PRESETS, HubFiles, Licence, Pin, Preset
from instantid_serve.models.single_file import convert_single_file
from instantid_serve.models.weights import Manifest, Origin, check_manifest, file_sha256, write_manifest

_COMMIT = re.compile(r"[0-9a-f]{40}")
_SPACE = 1.3  # of the downloads' size must be free: what is converted or unpacked is there twice for a while
_UNKNOWN_TERMS = "Its terms are not known here: read its model card before you accept."


@dataclasses.dataclass(frozen=True, slots=True)
class Base:
    """The SDXL checkpoint to build on instead of the preset's own; at most one of the three.

    ``repo`` with ``revision``, a commit of 40 hex digits, is a hub repository in diffusers' layout; ``folder`` is such
    a folder on this machine; ``file`` is one safetensors file in the original layout.
    """

    repo: str | None = None
    revision: str | None = None
    folder: Path | None = None
    file: Path | None = None


@dataclasses.dataclass(frozen=True, slots=True)
class _Download:
    url: str
    pin: Pin
    path: Path
    headers: dict[str, str]


def fetch(
    preset: str,
    folder: Path,
    *,
    accept_licences: bool,
    base: str | None = None,
    base_revision: str | None = None,
    base_file: Path | None = None,
    progress: bool = True,
) -> Manifest:
    """Download ``preset``, check it against its pins, and assemble the model folder; about 11.5 GB for the real one.

    ``base``: a hub repository (then ``base_revision`` is its commit) or a local folder, ``base_file`` a single file, to
    take the place of the preset's SDXL. A folder that holds this very model is left as it is. Calling again after an
    interruption resumes. Raises WeightsError when the licences are not accepted (the message lists them), when the
    folder holds something else, or naming a file that cannot be had or is not the pinned one.
    """
    if preset not in PRESETS:
        raise WeightsError(f"there is no model {preset!r} to fetch; there is {', '.join(PRESETS)}")
    is_folder = base is not None and Path(base).is_dir()
    chosen = Base(
        repo=None if is_folder else base,
        revision=base_revision,
        folder=Path(base).absolute() if base is not None and is_folder else None,
        file=base_file.absolute() if base_file else None,
    )
    return fetch_preset(PRESETS[preset], folder, chosen, accept_licences=accept_licences, progress=progress)


def fetch_preset(
    preset: Preset,
    folder: Path,
    base: Base,
    *,
    accept_licences: bool,
    progress: bool = True,
    hub_endpoint: str | None = None,
) -> Manifest:
    """Do what :func:`fetch` does, for pins handed in. ``hub_endpoint``: a mirror of the hub, else ``HF_ENDPOINT``."""
    _check_base(base)
    _require_acceptance(preset, base, accepted=accept_licences)
    folder = folder.absolute()
    origin = _base_origin(preset, base)
    held = _held_manifest(folder, preset, origin)
    if held is not None:
        return held
    staging = folder.with_name(f".{folder.name}.fetching")
    staging.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(staging / "lock", timeout=0):
            return _fetch_locked(preset, folder, base, origin, staging, progress=progress, endpoint=hub_endpoint)
    except Timeout as error:
        raise WeightsError(f"another process is fetching into {folder}") from error


def licences(preset: Preset, base: Base) -> list[Licence]:
    """The terms an operator accepts with ``preset`` on ``base``."""
    of_base = preset.base.licence if base == Base() else _unknown_licence(base)
    return [preset.instantid.licence, preset.faces.licence, of_base]


def _unknown_licence(base: Base) -> Licence:
    name = base.repo or str(base.folder or base.file)
    return Licence(name="unknown", of=f"{name} (the base model)", plain=_UNKNOWN_TERMS, url="")


def _check_base(base: Base) -> None:
    if sum(choice is not None for choice in (base.repo, base.folder, base.file)) > 1:
        raise WeightsError("a base is a repository, a folder or a single file: give one of them")
    if base.repo is not None and not _COMMIT.fullmatch(base.revision or ""):
        raise WeightsError(f"the base {base.repo} needs a revision: a commit of 40 hex digits, no branch or tag")
    if base.repo is None and base.revision is not None:
        raise WeightsError("a revision is for a base that is a hub repository")
    if base.file is not None and not base.file.is_file():
        raise WeightsError(f"there is no file {base.file}")


def _require_acceptance(preset: Preset, base: Base, *, accepted: bool) -> None:
    if accepted:
        return
    terms = licences(preset, base)
    listed = "\n".join(f"- {t.of}: {t.name}. {t.plain} {t.url}".rstrip() for t in terms)
    raise WeightsError(
        f"{preset.name} is under licences you must accept first:\n{listed}\nAccept them with --accept-licences.",
        {"licences": [dataclasses.asdict(term) for term in terms]},
    )


def _base_origin(preset: Preset, base: Base) -> Origin:
    if base.repo is not None:
        return Origin(f"{base.repo}@{base.revision}", "unknown")
    if base.folder is not None:
        return Origin(f"folder {base.folder.name}", "unknown")
    if base.file is not None:
        return Origin(f"file {base.file.name}, sha256 {file_sha256(base.file)}", "unknown")
    return Origin(preset.base.source, preset.base.licence.name)


def _held_manifest(folder: Path, preset: Preset, base: Origin) -> Manifest | None:
    """The manifest, when the folder holds what is asked for. Raises WeightsError when it holds anything else."""
    if not folder.exists() or not any(folder.iterdir()):
        return None
    try:
        manifest = check_manifest(folder)
    except WeightsError as error:
        raise WeightsError(f"{folder} is not empty and not whole, and is left as it is: {error}") from error
    held = {file.source for file in manifest.files if file.path.startswith("base/")}
    if manifest.preset != preset.name or held != {base.source}:
        raise WeightsError(f"{folder} holds {manifest.preset} on {', '.join(sorted(held))}; it is left as it is")
    return manifest


def _fetch_locked(
    preset: Preset, folder: Path, base: Base, origin: Origin, staging: Path, *, progress: bool, endpoint: str | None
) -> Manifest:
    placed, configurations = _hub_files(preset, base, endpoint)
    downloads = [d for files in (*placed, *configurations) for d in _hub_downloads(files, staging, endpoint)]
    pack = _Download(preset.faces.url, _pack_pin(preset), staging / f"{preset.faces.sha256[:16]}.zip", {})
    _download_all([*downloads, pack], staging, progress=progress)
    assembled = staging / "assembled"
    shutil.rmtree(assembled, ignore_errors=True)
    for download_ in downloads:
        if not any(download_.pin in files.files for files in configurations):
            assembly.place(download_.path, assembled / download_.pin.target)
    assembly.unpack(pack.path, preset.faces, assembled)
    if base.folder is not None:
        copy_base(base.folder, assembled / "base")
    if base.file is not None:
        convert_single_file(base.file, _repo_folder(configurations[0], staging), assembled / "base")
    manifest = _seal(assembled, preset, origin, [pin for files in placed for pin in files.files])
    if folder.exists():
        folder.rmdir()  # it is empty
    assembled.rename(folder)
    shutil.rmtree(staging, ignore_errors=True)
    return manifest


def _hub_files(preset: Preset, base: Base, endpoint: str | None) -> tuple[list[HubFiles], list[HubFiles]]:
    """What is fetched from the hub to be put in place, and what only to convert a single file by."""
    if base.repo is not None:
        listed = hub.list_base(base.repo, base.revision or "", _unknown_licence(base), endpoint)
        return [preset.instantid, listed], []
    if base.folder is not None:
        return [preset.instantid], []
    if base.file is not None:
        wanted = choose_configuration(pin.path for pin in preset.base.files)
        pins = tuple(pin for pin in preset.base.files if pin.path in wanted)
        return [preset.instantid], [dataclasses.replace(preset.base, files=pins)]
    return [preset.instantid, preset.base], []


def _hub_downloads(files: HubFiles, staging: Path, endpoint: str | None) -> list[_Download]:
    headers = hub.headers()
    return [
        _Download(
            hub.file_url(files.repo, files.revision, pin.path, endpoint),
            pin,
            _repo_folder(files, staging) / pin.path,
            headers,
        )
        for pin in files.files
    ]


def _repo_folder(files: HubFiles, staging: Path) -> Path:
    return staging / files.repo.replace("/", "--") / files.revision


def _pack_pin(preset: Preset) -> Pin:
    return Pin(PurePosixPath(preset.faces.url).name, "", preset.faces.sha256, preset.faces.size_bytes)


def _download_all(downloads: list[_Download], staging: Path, *, progress: bool) -> None:
    missing_bytes = sum(d.pin.size_bytes or 0 for d in downloads if not d.path.exists())
    if shutil.disk_usage(staging).free < missing_bytes * _SPACE:
        raise WeightsError(f"there is too little space for {missing_bytes / 1e9:.1f} GB in {staging.parent}")
    with httpx2.Client(timeout=TIMEOUT) as client, _bar(shown=progress) as bar:
        task = bar.add_task("", total=sum(d.pin.size_bytes or 0 for d in downloads))
        for d in downloads:
            bar.update(task, description=d.pin.path)
            download(client, d.url, d.pin, d.path, headers=d.headers, on_bytes=lambda count: bar.advance(task, count))


def _bar(*, shown: bool) -> Progress:
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        DownloadColumn(),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
        console=Console(stderr=True),
        disable=not shown,
    )


def _seal(assembled: Path, preset: Preset, base: Origin, pins: list[Pin]) -> Manifest:
    """Write the manifest of an assembled folder, and hold it against the pins once more."""
    require_parts(assembled)
    sources = {
        "": Origin(preset.instantid.source, preset.instantid.licence.name),
        "antelopev2/": Origin(preset.faces.url, preset.faces.licence.name),
        "base/": base,
    }
    manifest = write_manifest(assembled, preset.name, sources)
    found = {file.path: file.sha256 for file in manifest.files}
    for pin in (*pins, *preset.faces.files):
        # Converted files have hashes of their own.
        if pin.sha256 is not None and _suffix(pin.path) == _suffix(pin.target) and found[pin.target] != pin.sha256:
            raise WeightsError(f"{pin.target} was damaged after its download; delete {assembled.parent} and try again")
    return manifest


def _suffix(path: str) -> str:
    return PurePosixPath(path).suffix
