"""What tenants have used, month by month (UTC), and the quota on it. Everything is in the caller's transaction."""

from __future__ import annotations

import dataclasses
import datetime as dt
import math
from typing import Any

import sqlalchemy as sa

from instantid_serve.errors import QuotaExceededError
from instantid_serve.service.job import JobStatus
from instantid_serve.service.tables import owned_by, usage

_LONGEST_RETRY_S = 86_400  # a quota may be raised before the month is over


@dataclasses.dataclass(frozen=True, slots=True)
class Usage:
    """One month of a tenant. ``pictures``: accepted, less those given back; ``made``: those that were made.

    ``denoise_s``: seconds that their denoising took.
    """

    period: str
    pictures: int
    jobs: int
    made: int
    denoise_s: float


def period_of(time_s: float) -> str:
    """The month that a time (seconds since the epoch) lies in, for example ``2026-11``."""
    return dt.datetime.fromtimestamp(time_s, tz=dt.UTC).strftime("%Y-%m")


def period_end(time_s: float) -> float:
    """When the month that ``time_s`` lies in is over: seconds since the epoch."""
    first = dt.datetime.fromtimestamp(time_s, tz=dt.UTC).replace(day=1, hour=0, minute=0, second=0, microsecond=0)
    return (first + dt.timedelta(days=32)).replace(day=1).timestamp()


def charge(connection: sa.Connection, tenant: str, now_s: float, *, jobs: int, pictures: int, quota: int | None) -> str:
    """Count what was accepted, and return the month it is counted in.

    Raises QuotaExceededError when the month's pictures would be more than ``quota``. The caller holds the tenant's
    row, so no other charge comes between.
    """
    period = period_of(now_s)
    mine = sa.and_(owned_by(usage, tenant), usage.c.period == period)
    found = connection.execute(sa.select(usage.c.pictures).where(mine)).scalar_one_or_none()
    used = found or 0
    if quota is not None and used + pictures > quota:
        raise QuotaExceededError("the pictures of this month are used up", _refusal(now_s, quota, used))
    if found is None:
        values = {"tenant": tenant, "period": period, "pictures": pictures, "jobs": jobs, "made": 0, "denoise_s": 0.0}
        connection.execute(sa.insert(usage).values(values))
    else:
        grown = {"pictures": usage.c.pictures + pictures, "jobs": usage.c.jobs + jobs}
        connection.execute(sa.update(usage).where(mine).values(grown))
    return period


def _refusal(now_s: float, quota: int, used: int) -> dict[str, Any]:
    ends_at = period_end(now_s)
    resets_at = dt.datetime.fromtimestamp(ends_at, tz=dt.UTC).isoformat()
    retry_after_s = min(math.ceil(ends_at - now_s), _LONGEST_RETRY_S)
    return {"quota": quota, "used": used, "resets_at": resets_at, "retry_after_s": retry_after_s}


def settle(connection: sa.Connection, row: sa.Row[Any]) -> None:
    """Count what an ended job came to: pictures made, or given back when it made none.

    What failed, and what was stopped before it began, costs nothing; work stopped in the middle was done all the same.
    """
    if row.period is None:  # accepted by a version that did not count
        return
    mine = sa.and_(usage.c.tenant == row.tenant, usage.c.period == row.period)
    if row.status == JobStatus.SUCCEEDED:
        seconds = sum(float(image["stats"].get("denoise_s", 0.0)) for image in row.images)
        values = {"made": usage.c.made + row.pictures, "denoise_s": usage.c.denoise_s + seconds}
    elif row.status == JobStatus.FAILED or row.started_at is None:
        values = {"pictures": usage.c.pictures - row.pictures}
    else:
        return
    connection.execute(sa.update(usage).where(mine).values(values))


def of(connection: sa.Connection, tenant: str, months: int = 12) -> list[Usage]:
    """The tenant's last ``months`` months in which it used anything, the latest first."""
    query = sa.select(usage).where(owned_by(usage, tenant)).order_by(usage.c.period.desc()).limit(months)
    rows = connection.execute(query)
    return [Usage(row.period, row.pictures, row.jobs, row.made, row.denoise_s) for row in rows]
