"""What a webhook's delivery is: its states, its row as a value, what a courier claims and what comes of an attempt."""

from __future__ import annotations

import dataclasses
import enum
from collections.abc import Mapping
from typing import Any

_GONE = 410
_SUCCESSES = range(200, 300)


class DeliveryStatus(enum.StrEnum):
    """Where a delivery is in its life. The last two change only when its tenant asks for it again."""

    PENDING = "pending"  # waits until it is due
    SENDING = "sending"  # a courier holds its lease
    DELIVERED = "delivered"  # the receiver took it
    FAILED = "failed"  # tried for the last time, or its endpoint is disabled


class Repute(enum.IntEnum):
    """What is known of a receiver; the lower is served first, and none can take the room kept for those below it."""

    PROVEN = 0  # took the last one
    UNKNOWN = 1  # was sent nothing yet
    SUSPECT = 2  # did not take the last one


class Outcome(enum.StrEnum):
    """What an attempt came to."""

    DELIVERED = "delivered"
    RETRIED = "retried"  # it will be tried again
    FAILED = "failed"
    DISABLED = "disabled"  # it failed, and so its endpoint is disabled


@dataclasses.dataclass(frozen=True, slots=True)
class Delivery:
    """A delivery's row as its tenant sees it. Times are seconds since the epoch; ``attempts`` are the log."""

    id: str
    message_id: str
    endpoint_id: str | None
    job_id: str | None
    type: str
    status: DeliveryStatus
    payload: Mapping[str, Any]
    attempts: tuple[Mapping[str, Any], ...]
    due_at: float
    created_at: float
    finished_at: float | None

    @classmethod
    def from_row(cls, row: Any) -> Delivery:  # noqa: ANN401 - a row of the deliveries table
        """The delivery that a row tells of."""
        values = {field.name: getattr(row, field.name) for field in dataclasses.fields(cls)}
        return cls(**values | {"status": DeliveryStatus(row.status), "attempts": tuple(row.attempts)})


@dataclasses.dataclass(frozen=True, slots=True)
class Errand:
    """A delivery that a courier holds, and all it needs to send it. ``tries``: which attempt this is, from 1."""

    id: str
    message_id: str
    endpoint_id: str | None
    url: str = dataclasses.field(repr=False)
    payload: Mapping[str, Any] = dataclasses.field(repr=False)
    attempts: tuple[Mapping[str, Any], ...] = dataclasses.field(repr=False)
    tries: int
    fence: int
    repute: Repute
    secrets: tuple[str, ...] = dataclasses.field(repr=False)


@dataclasses.dataclass(frozen=True, slots=True)
class Attempt:
    """How one attempt went. ``at``: seconds since the epoch; ``error``: one short word where there was no answer."""

    at: float
    took_s: float
    status: int | None = None
    error: str | None = None
    retry_after_s: float | None = None

    @property
    def taken(self) -> bool:
        """Whether the receiver took it; a redirect is no such answer."""
        return self.status in _SUCCESSES

    @property
    def gone(self) -> bool:
        """Whether the receiver wants to hear no more."""
        return self.status == _GONE

    def to_json(self) -> dict[str, Any]:
        """What the log keeps."""
        return {"at": self.at, "status": self.status, "error": self.error, "took_s": round(self.took_s, 3)}
