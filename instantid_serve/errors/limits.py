"""Errors of a tenant's limits: nothing is wrong with the request, and later it can succeed."""

from __future__ import annotations

from instantid_serve.errors.root import InstantIDError


class LimitError(InstantIDError):
    """The tenant's limits do not allow this now."""

    code = "limited"
    status = 429
    retryable = True


class RateLimitedError(LimitError):
    """The tenant sends more requests than its rate allows."""

    code = "rate_limited"


class QueueFullError(LimitError):
    """The tenant has as many jobs waiting as it may have."""

    code = "queue_full"


class QuotaExceededError(LimitError):
    """The tenant has used up its pictures for this month."""

    code = "quota_exceeded"
