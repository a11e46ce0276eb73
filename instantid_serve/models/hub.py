"""What the Hugging Face hub has at a commit, and where. huggingface_hub knows the addresses and the token."""

from __future__ import annotations

import httpx2
from huggingface_hub import HfApi, get_token, hf_hub_url
from huggingface_hub.errors import HfHubHTTPError, OfflineModeIsEnabled
from huggingface_hub.hf_api import RepoFile

from instantid_serve.errors import WeightsError
from instantid_serve.models.layout import choose_base_files
from instantid_serve.models.presets import HubFiles, Licence, Pin


def file_url(repo: str, revision: str, path: str, endpoint: str | None) -> str:
    """Where the hub, or the mirror at ``endpoint``, serves a file of a repository."""
    url: str = hf_hub_url(repo, path, revision=revision, endpoint=endpoint)
    return url


def headers() -> dict[str, str]:
    """The operator's token, if he has one (``HF_TOKEN`` or ``hf auth login``)."""
    token = get_token()
    return {"Authorization": f"Bearer {token}"} if token else {}


def list_base(repo: str, revision: str, licence: Licence, endpoint: str | None) -> HubFiles:
    """The files of an SDXL base to download, pinned by the hashes the hub keeps for that commit.

    Raises WeightsError when the hub does not answer, has no such commit, or the repository is no SDXL base.
    """
    try:
        entries = HfApi(endpoint=endpoint).list_repo_tree(repo, recursive=True, revision=revision)
        files = {entry.path: entry for entry in entries if isinstance(entry, RepoFile)}
    except (HfHubHTTPError, httpx2.HTTPError, OfflineModeIsEnabled, ValueError) as error:
        raise WeightsError(f"the files of {repo} at {revision} cannot be listed: {error}") from error
    chosen = choose_base_files(files)
    pins = tuple(_pin(files[path], f"base/{target}") for path, target in sorted(chosen.items()))
    return HubFiles(repo=repo, revision=revision, licence=licence, files=pins)


def _pin(file: RepoFile, target: str) -> Pin:
    if file.lfs is not None:
        return Pin(file.path, target, file.lfs.sha256, file.lfs.size)
    return Pin(file.path, target, None, file.size, git_sha1=file.blob_id)
