"""Tenants, keys, usage and limits as they are sent and told. Times are told as ISO 8601 in UTC."""

from __future__ import annotations

import datetime as dt
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints

from instantid_serve.service.api_keys import IssuedKey, KeyRecord
from instantid_serve.service.rate_limits import Allowance
from instantid_serve.service.standing import Load, QueueState
from instantid_serve.service.tenants import Tenant
from instantid_serve.service.usage import Usage
from instantid_serve.settings import TENANT_PATTERN, TENANT_SCOPES, Scope

DAY_S = 86_400.0
_MOST = 1_000_000_000  # fits the database's integers, and is beyond anything meant
_LONGEST_S = 10 * 365 * DAY_S

_Seconds = Annotated[float, Field(gt=0, le=_LONGEST_S)]
_Some = Annotated[int, Field(ge=1, le=_MOST)]
_Any = Annotated[int, Field(ge=0, le=_MOST)]
_Text = Annotated[str, StringConstraints(max_length=100, pattern=r"^[^\x00]*$")]  # no NUL: PostgreSQL cannot hold it
_Scopes = Annotated[tuple[Scope, ...], Field(min_length=1, max_length=len(TENANT_SCOPES) + 1)]


class _Sent(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False, strict=True)


class KeyFields(_Sent):
    """A key to be made."""

    label: _Text = ""
    # Not strict: JSON has no tuples.
    scopes: Annotated[_Scopes, Field(strict=False)] | None = Field(
        None, description="What it may do. Omitted: what the calling key may do, or what a tenant may (admin)."
    )
    expires_in_s: _Seconds | None = Field(None, description="Seconds from now. Omitted: it does not expire.")


class RotationFields(_Sent):
    """How a key is replaced."""

    overlap_s: Annotated[float, Field(ge=0, le=30 * DAY_S)] = Field(
        DAY_S, description="Seconds for which the old key goes on working."
    )


class TenantChanges(_Sent):
    """What of a tenant may be set; null stands for the server's own limit."""

    tier: Annotated[str, StringConstraints(pattern=r"^[a-z0-9-]{1,32}$")] = "standard"
    weight: Annotated[float, Field(ge=0.01, le=1000)] = Field(1.0, description="Its share under load.")
    suspended: bool = Field(default=False, description="All its requests are refused. Jobs it has go on.")
    requests_per_minute: _Some | None = None
    max_running_pictures: _Some | None = None
    max_queued_jobs: _Any | None = None
    pictures_per_month: _Any | None = None
    retention_s: _Seconds | None = None
    defaults: dict[str, Any] = Field(
        default_factory=dict, description="Parameters of a generation that its requests leave out."
    )


class TenantFields(TenantChanges):
    """A tenant to be made."""

    id: Annotated[str, StringConstraints(pattern=TENANT_PATTERN)]


class KeyOut(BaseModel):
    """A key, without the key."""

    id: str
    object: Literal["api_key"] = "api_key"
    label: str
    scopes: list[str]
    created_at: dt.datetime
    expires_at: dt.datetime | None
    revoked_at: dt.datetime | None


class IssuedKeyOut(KeyOut):
    """A new key. This is the only time it is shown."""

    key: str


class KeyList(BaseModel):
    """All keys of a tenant, the newest first, the ended ones among them."""

    object: Literal["list"] = "list"
    data: list[KeyOut]


class TenantOut(BaseModel):
    """A tenant, with the limits that hold for it: its own or the server's."""

    id: str
    object: Literal["tenant"] = "tenant"
    tier: str
    weight: float
    suspended: bool
    requests_per_minute: int
    max_running_pictures: int | None
    max_queued_jobs: int
    pictures_per_month: int | None
    retention_s: float
    defaults: dict[str, Any]
    created_at: dt.datetime


class NewTenantOut(TenantOut):
    """A new tenant with its first key, which is shown only now."""

    key: IssuedKeyOut


class TenantList(BaseModel):
    """Tenants by name. ``next_cursor``: for the next page; null on the last."""

    object: Literal["list"] = "list"
    data: list[TenantOut]
    next_cursor: str | None


class MonthOut(BaseModel):
    """A month (UTC). ``pictures`` counts against the quota: accepted, less those of jobs that failed."""

    period: str
    pictures: int
    jobs: int
    made: int
    denoise_s: float


class UsageOut(BaseModel):
    """The months in which anything was used, the latest first."""

    object: Literal["list"] = "list"
    data: list[MonthOut]


class LimitOut(BaseModel):
    """A limit and what is used of it now. ``limit`` null: there is none. ``used`` null: it is not counted now."""

    limit: int | None
    used: int | None
    resets_at: dt.datetime | None = None


class LimitsOut(BaseModel):
    """The limits that hold for the calling tenant."""

    object: Literal["limits"] = "limits"
    requests_per_minute: LimitOut
    queued_jobs: LimitOut
    running_pictures: LimitOut
    pictures_per_month: LimitOut
    weight: float
    retention_s: float


class StatusOut(BaseModel):
    """The service as a whole: how much waits, for how long already, and how many dispatchers work on it."""

    object: Literal["status"] = "status"
    version: str
    queued: int
    oldest_age_s: float
    running: int
    workers: int


def key_out(record: KeyRecord) -> KeyOut:
    """A key as its tenant sees it."""
    return KeyOut(**_key_values(record))


def issued_out(issued: IssuedKey) -> IssuedKeyOut:
    """A new key, for the one answer that shows it."""
    return IssuedKeyOut(**_key_values(issued.record), key=issued.key)


def tenant_values(tenant: Tenant) -> dict[str, Any]:
    """The members of a tenant's JSON."""
    names = TenantOut.model_fields.keys() - {"object", "created_at", "defaults"}
    values = {name: getattr(tenant, name) for name in names}
    return values | {"defaults": dict(tenant.defaults), "created_at": time_of(tenant.created_at)}


def month_out(month: Usage) -> MonthOut:
    """One month of usage."""
    return MonthOut(
        period=month.period, pictures=month.pictures, jobs=month.jobs, made=month.made, denoise_s=month.denoise_s
    )


def limits_out(tenant: Tenant, load: Load, allowance: Allowance | None, now_s: float) -> LimitsOut:
    """A tenant's limits beside what it uses. ``now_s``: this machine's time, for the rate's reset."""
    rate = LimitOut(limit=tenant.requests_per_minute, used=None)
    if allowance is not None:
        used = allowance.limit - allowance.left
        rate = LimitOut(limit=allowance.limit, used=used, resets_at=time_of(now_s + allowance.more_in_s))
    ends = time_of(load.month_ends_at)
    return LimitsOut(
        requests_per_minute=rate,
        queued_jobs=LimitOut(limit=tenant.max_queued_jobs, used=load.queued_jobs),
        running_pictures=LimitOut(limit=tenant.max_running_pictures, used=load.running_pictures),
        pictures_per_month=LimitOut(limit=tenant.pictures_per_month, used=load.month_pictures, resets_at=ends),
        weight=tenant.weight,
        retention_s=tenant.retention_s,
    )


def status_out(version: str, queue: QueueState) -> StatusOut:
    """The service's state; nothing in it is of one tenant."""
    return StatusOut(
        version=version,
        queued=queue.queued,
        oldest_age_s=round(queue.oldest_age_s, 3),
        running=queue.running,
        workers=queue.workers,
    )


def time_of(seconds: float) -> dt.datetime:
    """Seconds since the epoch as a time in UTC."""
    return dt.datetime.fromtimestamp(seconds, tz=dt.UTC)


def _key_values(record: KeyRecord) -> dict[str, Any]:
    return {
        "id": record.id,
        "label": record.label,
        "scopes": list(record.scopes),
        "created_at": time_of(record.created_at),
        "expires_at": None if record.expires_at is None else time_of(record.expires_at),
        "revoked_at": None if record.revoked_at is None else time_of(record.revoked_at),
    }
