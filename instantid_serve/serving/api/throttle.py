"""Counts a tenant's requests, and the wrong keys of an address, and tells both in headers.

The headers are those of draft-ietf-httpapi-ratelimit-headers-10. Every request counts one, whatever its method: what
is expensive here are pictures, and these have limits of their own.
"""

from __future__ import annotations

from fastapi import Request
from starlette.types import Scope

from instantid_serve.errors import RateLimitedError
from instantid_serve.service.rate_limits import WINDOW_S, Allowance
from instantid_serve.service.tenants import Tenant
from instantid_serve.serving.api.context import ApiContext

_POLICY = "requests"
_STATE = "allowance"


async def count_request(request: Request, context: ApiContext, tenant: Tenant) -> None:
    """Count a tenant's request, and keep the count for the answer. Raises RateLimitedError when it is one too many."""
    allowance = await context.rates.take("requests", tenant.id, tenant.requests_per_minute)
    setattr(request.state, _STATE, allowance)
    if allowance is not None and not allowance.granted:
        raise _refusal("this tenant sends more requests than its rate allows", allowance)


async def count_failed_login(request: Request, context: ApiContext) -> None:
    """Count an address's wrong key. Raises RateLimitedError when it is one too many.

    A key that is valid never comes here, so guessing from an address that many share locks nobody out.
    """
    address = request.client.host if request.client else "unknown"
    allowance = await context.rates.take("failed-logins", address, context.settings.tenancy.failed_logins_per_minute)
    if allowance is not None and not allowance.granted:
        raise _refusal("too many requests without a valid API key come from this address", allowance)


def allowance_of(request: Request) -> Allowance | None:
    """What the request's tenant has left; None while requests are not counted."""
    found: Allowance | None = getattr(request.state, _STATE, None)
    return found


def rate_headers(scope: Scope) -> dict[str, str]:
    """The headers for the answer to a caller who was counted; none for anyone else."""
    allowance = scope.get("state", {}).get(_STATE)
    if allowance is None:
        return {}
    return {
        "RateLimit-Policy": f'"{_POLICY}";q={allowance.limit};w={WINDOW_S}',
        "RateLimit": f'"{_POLICY}";r={allowance.left};t={allowance.more_in_s}',
    }


def _refusal(sentence: str, allowance: Allowance) -> RateLimitedError:
    facts = {"limit": allowance.limit, "window_s": WINDOW_S, "retry_after_s": allowance.more_in_s}
    return RateLimitedError(sentence, facts)
