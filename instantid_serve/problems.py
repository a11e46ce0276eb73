"""Errors told in JSON back into the errors they were, by their stable ``code``: an answer's problem, a job's error."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from instantid_serve.errors import CallerError, InstantIDError, ServiceError, UnavailableError

_MEMBERS = frozenset({"type", "title", "status", "detail", "instance", "code", "retryable", "facts"})
_GATEWAY_STATUSES = frozenset({502, 503, 504})


def rebuild_error(problem: Mapping[str, Any], status: int = 500) -> InstantIDError:
    """Return the error that a problem+json body (RFC 9457), or the ``error`` of a job, stands for.

    Its facts are the problem's extension members, or the error's ``facts``. A code that this version does not know
    becomes the nearest class by HTTP status, with the code among its facts.
    """
    code, detail = str(problem.get("code", "")), str(problem.get("detail") or problem.get("title") or "no detail")
    facts = {name: value for name, value in problem.items() if name not in _MEMBERS}
    told = problem.get("facts")
    if isinstance(told, Mapping):  # a proxy's JSON may hold anything
        facts |= told
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
