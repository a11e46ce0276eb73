"""Webhook endpoints and deliveries as callers send them, and as they get them back."""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, field_validator

from instantid_serve.service import outbox
from instantid_serve.service.delivery import Delivery
from instantid_serve.service.webhooks import Endpoint

_Url = Annotated[str, StringConstraints(min_length=1, max_length=2048)]
_Events = Annotated[list[outbox.EventName], Field(max_length=len(outbox.TYPES))]
_Description = Annotated[str, StringConstraints(max_length=500)]


class _Fields(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False)


def _storable(text: str) -> str:
    if "\0" in text:  # PostgreSQL's text cannot hold it
        raise ValueError("text must not contain NUL")
    return text


class WebhookFields(_Fields):
    """A new endpoint."""

    url: _Url = Field(description="Where to post to: https, unless this server is configured otherwise.")
    events: _Events = Field([], description="Which types to send; none named: all.")
    description: _Description = ""

    _no_nul = field_validator("url", "description")(_storable)


class WebhookChanges(_Fields):
    """What of an endpoint to set; what is left out stays."""

    url: _Url = Field("", description="What waits to be delivered goes there, too.")
    events: _Events = []
    description: _Description = ""
    disabled: bool = Field(
        default=False, description="true: deliveries that wait fail; false: also enables one that failed."
    )

    _no_nul = field_validator("url", "description")(_storable)


class RotationFields(_Fields):
    """How to change a secret."""

    overlap_s: float = Field(
        86_400.0, ge=0, le=7 * 86_400, description="Seconds for which the old secret signs beside the new one."
    )


class NoFields(_Fields):
    """Nothing: the request has no body."""


class WebhookOut(BaseModel):
    """An endpoint. ``disabled_reason``: ``gone`` (it answered 410), ``failing`` (for five days) or ``by_tenant``."""

    id: str
    object: Literal["webhook"] = "webhook"
    url: str
    events: list[str]
    description: str
    created_at: dt.datetime
    last_delivered_at: dt.datetime | None
    failing_since: dt.datetime | None
    disabled_at: dt.datetime | None
    disabled_reason: str | None


class WebhookWithSecretOut(WebhookOut):
    """An endpoint, and the secret that its deliveries are signed with from now on."""

    secret: str


class WebhookList(BaseModel):
    """All endpoints of a tenant, the newest first: there are at most twenty."""

    object: Literal["list"] = "list"
    data: list[WebhookOut]


class LiveSecretOut(BaseModel):
    """A secret that signs now; ``expires_at``: null for the one that stays."""

    secret: str
    expires_at: dt.datetime | None


class SecretsOut(BaseModel):
    """The secrets that sign now. ``secret`` is the newest of them."""

    object: Literal["webhook_secret"] = "webhook_secret"
    secret: str
    live: list[LiveSecretOut]


class AttemptOut(BaseModel):
    """One attempt: the receiver's ``status``, or one word that says why there was none."""

    at: dt.datetime
    status: int | None
    error: str | None
    took_s: float


class DeliveryOut(BaseModel):
    """A delivery. ``message_id`` is what every attempt sends as ``webhook-id``; ``due_at``: of the next attempt."""

    id: str
    object: Literal["webhook_delivery"] = "webhook_delivery"
    message_id: str
    type: str
    generation_id: str | None
    status: Literal["pending", "sending", "delivered", "failed"]
    payload: dict[str, Any]
    attempts: list[AttemptOut]
    due_at: dt.datetime | None
    created_at: dt.datetime
    finished_at: dt.datetime | None


class DeliveryList(BaseModel):
    """A page of deliveries, the newest first. ``next_cursor``: null on the last page."""

    object: Literal["list"] = "list"
    data: list[DeliveryOut]
    next_cursor: str | None


def webhook_out(endpoint: Endpoint) -> WebhookOut:
    """An endpoint as its tenant sees it."""
    return WebhookOut(**_values(endpoint))


def webhook_with_secret_out(endpoint: Endpoint) -> WebhookWithSecretOut:
    """An endpoint whose secret its tenant is to see."""
    return WebhookWithSecretOut(**_values(endpoint), secret=endpoint.secrets[0]["secret"])


def secrets_out(live: Sequence[Mapping[str, Any]]) -> SecretsOut:
    """Secrets as they are kept, the newest first."""
    entries = [LiveSecretOut(secret=entry["secret"], expires_at=_time(entry["expires_at"])) for entry in live]
    return SecretsOut(secret=entries[0].secret, live=entries)


def delivery_out(delivery: Delivery) -> DeliveryOut:
    """A delivery as its tenant sees it."""
    return DeliveryOut(
        id=delivery.id,
        message_id=delivery.message_id,
        type=delivery.type,
        generation_id=delivery.job_id,
        status=delivery.status.value,
        payload=dict(delivery.payload),
        attempts=[AttemptOut(**{**attempt, "at": _time(attempt["at"])}) for attempt in delivery.attempts],
        due_at=_time(delivery.due_at) if delivery.finished_at is None else None,
        created_at=dt.datetime.fromtimestamp(delivery.created_at, tz=dt.UTC),
        finished_at=_time(delivery.finished_at),
    )


def _values(endpoint: Endpoint) -> dict[str, Any]:
    return {
        "id": endpoint.id,
        "url": endpoint.url,
        "events": list(endpoint.events),
        "description": endpoint.description,
        "created_at": _time(endpoint.created_at),
        "last_delivered_at": _time(endpoint.delivered_at),
        "failing_since": _time(endpoint.failing_since),
        "disabled_at": _time(endpoint.disabled_at),
        "disabled_reason": endpoint.disabled_reason,
    }


def _time(seconds: float | None) -> dt.datetime | None:
    return None if seconds is None else dt.datetime.fromtimestamp(seconds, tz=dt.UTC)
