"""Vouching for a model folder that the operator assembled himself."""

from __future__ import annotations

from pathlib import Path

from instantid_serve.errors import WeightsError
from instantid_serve.models.conversion import convert_ip_adapter
from instantid_serve.models.layout import ADAPTER_NAMES, require_parts
from instantid_serve.models.presets import PRESETS, Preset
from instantid_serve.models.weights import Manifest, Origin, write_manifest

_PICKLES = frozenset({".bin", ".ckpt", ".pickle", ".pkl", ".pt", ".pth"})
ADOPTED = Origin("adopted from the operator", "unknown")


def adopt(folder: Path, preset: str) -> Manifest:
    """Write the manifest of a folder as it is now: from here on, no other byte is served.

    Files that are the preset's pinned ones get their source and licence, the others are marked as adopted. InstantX's
    ``ip-adapter.bin`` is converted to safetensors beside it. Raises WeightsError for an unknown preset, a missing part,
    a symlink, or another pickle.
    """
    if preset not in PRESETS:
        raise WeightsError(f"there is no model {preset!r} to adopt; there is {', '.join(PRESETS)}")
    require_parts(folder)
    safe, pickled = (folder / name for name in ADAPTER_NAMES)
    for path in sorted(folder.rglob("*")):
        if path.suffix.lower() in _PICKLES and path != pickled:
            name = path.relative_to(folder).as_posix()
            raise WeightsError(f"{name} is a pickle, which could run code: convert it to safetensors", {"file": name})
    if not safe.exists():
        convert_ip_adapter(pickled, safe)
    return write_manifest(folder, preset, {"": ADOPTED}, known=_pinned(PRESETS[preset]))


def _pinned(preset: Preset) -> dict[str, Origin]:
    """The origin of every file whose hash the preset knows."""
    origins: dict[str, Origin] = {}
    for files in (preset.instantid, preset.base):
        origin = Origin(files.source, files.licence.name)
        origins |= {pin.sha256: origin for pin in files.files if pin.sha256}
    faces = Origin(preset.faces.url, preset.faces.licence.name)
    return origins | {pin.sha256: faces for pin in preset.faces.files if pin.sha256}
