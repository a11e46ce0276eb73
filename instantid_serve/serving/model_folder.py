"""Whether the model folder that the settings name is there, and what is done when it is not."""

from __future__ import annotations

import importlib.metadata
import logging
from typing import Any

from instantid_serve.errors import ConfigurationError
from instantid_serve.models.weights import check_manifest, read_manifest
from instantid_serve.settings import ModelSettings, Settings

_COMPUTING = ("torch", "diffusers", "transformers", "numpy")

log = logging.getLogger(__name__)


def require(model: ModelSettings) -> None:
    """Raise ConfigurationError when the folder is missing and this package cannot make it. Cheap: nothing is read."""
    if model.preset != "miniature" and not _is_there(model):
        raise ConfigurationError(
            f"there is no model in {model.folder}; run `instantid-serve weights fetch --preset {model.preset} "
            f"--folder {model.folder} --accept-licences`"
        )


def made_with(settings: Settings) -> dict[str, Any]:
    """What a picture made here is made with: the model and its files' hashes, and the versions of what computes."""
    manifest = read_manifest(settings.model.folder)
    return {
        "service": importlib.metadata.version("instantid-serve"),
        "model": {
            "preset": manifest.preset,
            "manifest_sha256": manifest.seal,
            "files": {file.path: {"sha256": file.sha256, "source": file.source} for file in manifest.files},
        },
        "device": settings.model.device,
        "libraries": {name: importlib.metadata.version(name) for name in _COMPUTING},
    }


def provide(model: ModelSettings) -> None:
    """Make the miniature where it is missing, and check every file of the folder against its manifest.

    Raises ConfigurationError as :func:`require`, WeightsError naming the file at fault.
    """
    require(model)
    if not _is_there(model):
        from instantid_serve.models import miniature  # noqa: PLC0415 - torch, which a check does without

        log.info("making the miniature model in %s", model.folder)
        miniature.make(model.folder)
    check_manifest(model.folder)


def _is_there(model: ModelSettings) -> bool:
    return (model.folder / "manifest.json").is_file()
