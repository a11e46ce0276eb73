"""InstantID (zero-shot identity-preserving image generation) as a multi-tenant service on Ray Serve.

``from instantid_serve import Client`` is the Python SDK. Everything else is the server's, imported by its full name.
"""

from __future__ import annotations

import typing

if typing.TYPE_CHECKING:
    from instantid_serve.client import Client
    from instantid_serve.told_job import Job

__all__ = ["Client", "Job"]


def __getattr__(name: str) -> object:
    """Load the SDK's names at first use (PEP 562): the package itself stays free to import in every replica."""
    if name in __all__:
        from instantid_serve import client  # noqa: PLC0415 - the laziness is the purpose

        return getattr(client, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
