"""What callers say of a job beside the picture: how urgent, for how long, and whom to tell."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import AfterValidator, BaseModel, Field, StringConstraints, model_validator

from instantid_serve.service.job import Priority

METADATA_KEY = r"[A-Za-z0-9_.-]{1,64}"
METADATA_PREFIX = "metadata."  # of query parameters that filter by it
_MAX_PAIRS = 16
_MAX_VALUE_CHARS = 512
_MAX_URL_CHARS = 2048
_SHORTEST_RETENTION_S = 60

PriorityName = Literal["low", "normal", "high"]
PRIORITIES: dict[PriorityName, Priority] = {
    "low": Priority.LOW,
    "normal": Priority.NORMAL,
    "high": Priority.HIGH,
}
WebhookEvent = Literal[
    "generation.running",
    "generation.succeeded",
    "generation.failed",
    "generation.canceled",
    "generation.expired",
]


def no_nul(text: str) -> str:
    """Refuse NUL: PostgreSQL's text cannot hold it."""
    if "\0" in text:
        raise ValueError("text must not contain NUL")
    return text


_MetadataKey = Annotated[str, StringConstraints(pattern=f"^{METADATA_KEY}$")]
MetadataValue = Annotated[str, StringConstraints(max_length=_MAX_VALUE_CHARS), AfterValidator(no_nul)]
Metadata = Annotated[dict[_MetadataKey, MetadataValue], Field(max_length=_MAX_PAIRS)]
Url = Annotated[str, StringConstraints(min_length=1, max_length=_MAX_URL_CHARS), AfterValidator(no_nul)]

# In a form these are JSON.
JSON_FIELDS = ("metadata", "webhook_events")


class JobFields(BaseModel):
    """What may be asked of a job, whatever it makes."""

    priority: PriorityName = Field("normal", description="Among your own jobs; it takes nothing from other tenants.")
    metadata: Metadata = Field(
        default_factory=dict,
        description="Your own words about the job: up to 16 texts by name, returned with it. In a form: as JSON.",
    )
    webhook_url: Url | None = Field(None, description="Told of this job's changes, beside your webhook endpoints.")
    webhook_events: list[WebhookEvent] = Field(
        [], max_length=5, description="Which changes `webhook_url` is told of; none named: all. In a form: as JSON."
    )
    retention_s: Annotated[float, Field(ge=_SHORTEST_RETENTION_S)] | None = Field(
        None, description="Seconds from its end after which the job, photo and pictures are gone; only to shorten."
    )
    retry: Literal["auto", "never"] = Field("auto", description="Whether an attempt that died may be tried again.")

    @model_validator(mode="after")
    def _events_have_a_receiver(self) -> Self:
        if self.webhook_events and self.webhook_url is None:
            raise ValueError("webhook_events need a webhook_url")
        return self
