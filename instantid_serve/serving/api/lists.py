"""Lists in pages: where a page ended is an opaque cursor, which only goes on with the list that it came from."""

from __future__ import annotations

import base64
import binascii
import datetime as dt
import hashlib
import json
import math
import re
from collections.abc import Mapping
from typing import Annotated, Any, NoReturn

from fastapi import Query
from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, StringConstraints, model_validator

from instantid_serve.errors import InvalidRequestError
from instantid_serve.service.job import JobStatus
from instantid_serve.service.jobs import JobFilter
from instantid_serve.serving.api.job_fields import METADATA_KEY, METADATA_PREFIX, no_nul

_MAX_CURSOR_CHARS = 512
_ID = re.compile(r"[a-z]{3}_[0-9a-z]{1,40}")
_RFC3339 = re.compile(r"\d{4}-\d\d-\d\d[Tt]\d\d:\d\d:\d\d(\.\d{1,9})?([Zz]|[+-]\d\d:\d\d)")
_MAX_METADATA_FILTERS = 16
# A told time is rounded to microseconds: without this, a job could be after, or before, the time it was told with.
_ROUNDING_S = 6e-7

Position = tuple[float, str]  # created_at and id of the last thing on a page


def _only_rfc3339(value: object) -> object:
    """Pydantic would also take a bare number or date."""
    if not isinstance(value, str) or not _RFC3339.fullmatch(value):
        raise ValueError("must be a time as RFC 3339 has it, for example 2026-11-25T08:00:00Z")
    return value


_Time = Annotated[dt.datetime, BeforeValidator(_only_rfc3339)]
_Id = Annotated[str, StringConstraints(max_length=64), AfterValidator(no_nul)]


class PageQuery(BaseModel):
    """Which page of a list."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    limit: Annotated[int, Field(ge=1, le=100)] = Field(20, description="How many at most.")
    cursor: Annotated[str, StringConstraints(max_length=_MAX_CURSOR_CHARS)] | None = Field(
        None, description="`next_cursor` of the page before, with the same other parameters."
    )

    def before(self, scope: str) -> Position | None:
        """Where the page begins. Raises InvalidRequestError for a cursor of another list; ``scope`` is this one's."""
        return None if self.cursor is None else _read_cursor(self.cursor, scope)

    @property
    def filter(self) -> dict[str, Any]:
        """What of the query says which things are listed."""
        return self.model_dump(mode="json", exclude={"limit", "cursor"}, exclude_none=True)


class JobsQuery(PageQuery):
    """Which of the tenant's generations to list. ``metadata.<key>=<value>``, repeatable: those with all these pairs."""

    model_config = ConfigDict(extra="allow", frozen=True)
    __pydantic_extra__: dict[str, Any]

    status: list[JobStatus] = Field([], description="Repeatable: any of these.", max_length=len(JobStatus))
    created_after: _Time | None = Field(None, description="RFC 3339, exclusive.")
    created_before: _Time | None = Field(None, description="RFC 3339, exclusive.")
    batch_id: _Id | None = Field(None, description="Those of this batch.")
    identity_id: _Id | None = Field(None, description="Those made with this identity.")

    @model_validator(mode="after")
    def _knows_its_parameters(self) -> JobsQuery:
        for name, value in self.__pydantic_extra__.items():
            key = name.removeprefix(METADATA_PREFIX)
            if key == name:
                raise ValueError(f"there is no query parameter {name[:64]!r}")
            if not re.fullmatch(METADATA_KEY, key):
                raise ValueError("the name of a metadata filter is 1 to 64 of A-Z, a-z, 0-9, _, . and -")
            if not isinstance(value, str) or "\0" in value:
                raise ValueError("a metadata filter has one value")
        if len(self.__pydantic_extra__) > _MAX_METADATA_FILTERS:
            raise ValueError(f"there may be {_MAX_METADATA_FILTERS} metadata filters")
        return self

    @property
    def jobs(self) -> JobFilter:
        """The query as the jobs know it."""
        return JobFilter(
            status=tuple(self.status),
            created_after=self.created_after.timestamp() + _ROUNDING_S if self.created_after else None,
            created_before=self.created_before.timestamp() - _ROUNDING_S if self.created_before else None,
            batch_id=self.batch_id,
            identity_id=self.identity_id,
            metadata={name.removeprefix(METADATA_PREFIX): value for name, value in self.__pydantic_extra__.items()},
        )


Page = Annotated[PageQuery, Query()]
JobsPage = Annotated[JobsQuery, Query()]


def scope_of(tenant: str, path: str, wanted: Mapping[str, Any]) -> str:
    """A short name of one list: a cursor of another tenant, path or filter is not of it."""
    text = json.dumps([tenant, path, wanted], sort_keys=True, ensure_ascii=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def cursor(position: Position, scope: str) -> str:
    """The cursor behind the thing at ``position``."""
    text = json.dumps({"t": position[0], "i": position[1], "s": scope}, separators=(",", ":"))
    return base64.urlsafe_b64encode(text.encode()).decode().rstrip("=")


def _read_cursor(sent: str, scope: str) -> Position:
    try:
        data = base64.b64decode(sent + "=" * (-len(sent) % 4), altchars=b"-_", validate=True)
        told = json.loads(data)
    except (binascii.Error, ValueError, RecursionError):
        _refuse()
    if not isinstance(told, dict) or told.keys() != {"t", "i", "s"} or told["s"] != scope:
        _refuse()
    created_at, thing_id = told["t"], told["i"]
    if not isinstance(created_at, float) or not math.isfinite(created_at):
        _refuse()
    if not isinstance(thing_id, str) or not _ID.fullmatch(thing_id):
        _refuse()
    return created_at, thing_id


def _refuse() -> NoReturn:
    detail = "this cursor is not of this list: begin again without one"
    raise InvalidRequestError(detail, {"errors": [{"pointer": "/cursor", "detail": detail}]})
