"""Problem descriptions (RFC 9457) back into the errors they were made from, by their stable ``code``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from instantid_serve.errors import CallerError, InstantIDError, ServiceError, UnavailableError

_MEMBERS = frozenset({"type", "title", "status", "detail", "instance", "code", "retryable"})
_GATEWAY_STATUSES = frozenset({502, 503, 504})


def rebuild_error(problem: Mapping[str, Any], status: int = 500) -> InstantIDError:
    """Return the error that a problem+json body stands for; its extension members become the error's facts.

    A code this version does not know becomes the nearest class by HTTP status, with the code among its facts.
    """
    code, detail = str(problem.get("code", "")), str(problem.get("detail") or problem.get("title") or "no detail")
    facts = {name: value for name, value in problem.items() if name not in _MEMBERS}
    found = _by_code(InstantIDError, code)
    if found is not None:
        return found(detail, facts)
    return _by_status(status)(detail, {**facts, "code": code, "status": status})


def _by_code(root: type[InstantIDError], code: str) -> type[InstantIDError] | None:
    if root.code == code:
        return root
    return next((found for child in root.__subclasses__() if (found := _by_code(child, code))), None)


def _by_status(status: int) -> type[InstantIDError]:
    if status in _GATEWAY_STATUSES:
        return UnavailableError
    return CallerError if 400 <= status < 500 else ServiceError  # noqa: PLR2004 - HTTP's own classes
