"""Takes batches in: every item is checked before any job is made, and a fault says which item has it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterable, Mapping
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field

from instantid_serve.errors import CallerError, DatabaseError, InstantIDError, InvalidRequestError, UrlFetchError
from instantid_serve.service.ids import new_id
from instantid_serve.service.job import NewJob
from instantid_serve.service.jobs import Accepted
from instantid_serve.service.tenants import Tenant
from instantid_serve.serving.api.bodies import Body
from instantid_serve.serving.api.defaults import with_defaults
from instantid_serve.serving.api.intake import Asked, Intake, Terms
from instantid_serve.serving.api.job_fields import Metadata
from instantid_serve.serving.api.photo_sources import FIELDS as SOURCES
from instantid_serve.serving.api.photo_sources import take_source
from instantid_serve.serving.api.schemas import GenerationFields

MAX_ITEMS = 100
_PHOTOS_AT_ONCE = 2
_PHOTOS_WITHIN_S = 60.0  # all of them: a batch must not hold what others need for as long as it likes
_MAX_FAULTS = 50


class BatchFields(BaseModel):
    """A batch as callers ask for it. What is said in ``defaults`` holds for every item that does not say otherwise."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    defaults: dict[str, Any] = Field(default_factory=dict)
    items: Annotated[list[dict[str, Any]], Field(min_length=1, max_length=MAX_ITEMS)]
    metadata: Metadata = Field(default_factory=dict)


def asked_for(batch: BatchFields, tenant: Tenant, model: type[GenerationFields]) -> list[Asked]:
    """The items as single generations are asked for. Raises InvalidRequestError that names every fault's place."""
    asked: list[Asked] = []
    faults: list[dict[str, str]] = []
    for index, item in enumerate(batch.items):
        try:
            asked.append(_item(batch.defaults, item, tenant, model))
        except InvalidRequestError as error:
            faults += _placed(error, index, item, batch.defaults)
    if faults:
        known = list({fault["pointer"]: fault for fault in faults}.values())[:_MAX_FAULTS]
        sentence = "; ".join(f"{fault['pointer']}: {fault['detail']}" for fault in known[:3])
        raise InvalidRequestError(sentence, {"errors": known})
    return asked


def _item(defaults: Mapping[str, Any], item: Mapping[str, Any], tenant: Tenant, model: type[GenerationFields]) -> Asked:
    if "priority" in item:
        detail = "all items of a batch have one priority: say it in defaults"
        raise InvalidRequestError(detail, {"errors": [{"pointer": "/priority", "detail": detail}]})
    if any(name in item for name in SOURCES):
        defaults = {name: value for name, value in defaults.items() if name not in SOURCES}
    body = Body(with_defaults({"priority": "low", **defaults, **item}, tenant), {}, is_form=False)
    source = take_source(body.values, {})
    return Asked(body.rest(model), source)


async def accept_batch(intake: Intake, tenant: Tenant, asked: list[Asked], terms: Terms) -> Accepted:
    """All of the batch's jobs, or none. Raises as :meth:`Intake.accept`, with the item's place among the facts."""
    await intake.check_room(tenant, len(asked))
    batch_id = new_id("bat")
    ids = [new_id("gen") for _ in asked]
    try:
        new = await _prepared(intake, tenant, list(zip(ids, asked, strict=True)), terms, batch_id)
        return await intake.store(tenant, new, terms)
    except DatabaseError:
        raise  # perhaps the jobs are safely stored and only the answer was lost: then they need their photos
    except Exception:
        await intake.discard(tenant, ids)
        raise


async def _prepared(
    intake: Intake, tenant: Tenant, items: list[tuple[str, Asked]], terms: Terms, batch_id: str
) -> list[NewJob]:
    """The jobs to be. After a fault nothing more is begun, but what was begun is awaited: it still stores photos."""
    room = asyncio.Semaphore(_PHOTOS_AT_ONCE)
    ends_s = time.monotonic() + _PHOTOS_WITHIN_S
    faults: list[tuple[int, Exception]] = []

    async def prepare(index: int, job_id: str, asked: Asked) -> NewJob | None:
        async with room:
            if faults:
                return None
            try:
                _check_time(ends_s)
                return await intake.prepare(tenant, asked, job_id, terms, batch_id)
            except Exception as error:  # noqa: BLE001 - raised below, when nobody stores any more
                faults.append((index, error))
                return None

    new = await asyncio.gather(*(prepare(index, *item) for index, item in enumerate(items)))
    if faults:
        index, error = faults[0]
        raise _of_item(error, index) if isinstance(error, CallerError) else error
    return [job for job in new if job is not None]


def _check_time(ends_s: float) -> None:
    if time.monotonic() > ends_s:
        raise UrlFetchError("all photos together took too long: upload them first", {"reason": "timeout"})


def _of_item(error: CallerError, index: int) -> CallerError:
    """The same error, which also says of which item."""
    errors = _placed(error, index, {}, {}) or [{"pointer": f"/items/{index}", "detail": error.detail}]
    return type(error)(f"/items/{index}: {error.detail}", {**error.facts, "errors": errors})


def _placed(
    error: InstantIDError, index: int, item: Mapping[str, Any], defaults: Mapping[str, Any]
) -> Iterable[dict[str, str]]:
    """An item's faults with their place in the batch: a parameter that only the defaults name is wrong there."""
    placed = []
    for fault in error.facts.get("errors", []):
        name = fault["pointer"].removeprefix("/").partition("/")[0]
        place = "/defaults" if name in defaults and name not in item else f"/items/{index}"
        placed.append({"pointer": place + fault["pointer"], "detail": fault["detail"]})
    return placed
