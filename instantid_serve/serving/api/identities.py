"""Routes of identities: photos of a person, registered once with that person's consent, and named by generations."""

from __future__ import annotations

import asyncio
from typing import Annotated, Any

from fastapi import APIRouter, Path, Request, Response

from instantid_serve.errors import ConflictError, DatabaseError
from instantid_serve.service.idempotency import IdempotencyKey, fingerprint
from instantid_serve.service.identities import Identity, IdentityPhoto, NewIdentity
from instantid_serve.service.ids import new_id
from instantid_serve.service.results import identity_folder, identity_photo_key
from instantid_serve.serving.api.bodies import read_body
from instantid_serve.serving.api.callers import IdentitiesReader, IdentitiesWriter
from instantid_serve.serving.api.context import ApiContext, Context
from instantid_serve.serving.api.identity_schemas import (
    MAX_PHOTOS,
    PHOTOS_FIELD,
    UPLOADS_FIELD,
    URLS_FIELD,
    IdentityList,
    IdentityOut,
    Registration,
    body_schema,
    identity_out,
    read_registration,
)
from instantid_serve.serving.api.lists import Page, cursor, scope_of
from instantid_serve.serving.api.photo_sources import fingerprint_of
from instantid_serve.serving.api.preferences import REPLAYED, IdempotencyKeySent

PATH = "/v1/identities"
router = APIRouter(prefix=PATH, tags=["identities"])

# No NUL: PostgreSQL's text cannot hold it, so it could not even be looked for.
IdentityId = Annotated[
    str, Path(max_length=64, pattern=r"^[^\x00]*$", description="The id that registering the identity returned.")
]
_HEADERS: dict[str, Any] = {
    "Location": {"schema": {"type": "string"}, "description": "Where the identity is."},
    REPLAYED: {"schema": {"type": "string", "enum": ["true"]}, "description": "An earlier request created it."},
}


@router.post(
    "",
    status_code=201,
    response_model=IdentityOut,
    responses={201: {"headers": _HEADERS}},
    openapi_extra=body_schema(),
)
async def create(
    request: Request, tenant: IdentitiesWriter, context: Context, response: Response, sent_key: IdempotencyKeySent
) -> IdentityOut:
    """Register a person by 1 to 8 photos, with the consent that the person gave.

    Faces are looked for when a generation names the identity, not here.
    """
    async with context.intake.room:
        body = await read_body(
            request, max_files={PHOTOS_FIELD: MAX_PHOTOS}, lists=(PHOTOS_FIELD, URLS_FIELD, UPLOADS_FIELD)
        )
        # Threads: fifteen megabytes of base64 take a tenth of a second, in which nobody else would be answered.
        asked = await asyncio.to_thread(read_registration, body)
        key = await asyncio.to_thread(_key, sent_key, asked)
        identity, replayed = await _registered(context, tenant.id, asked, key)
    response.headers["Location"] = f"{PATH}/{identity.id}"
    if replayed:
        response.headers[REPLAYED] = "true"
    return identity_out(identity)


@router.get("", response_model=IdentityList)
async def find(query: Page, tenant: IdentitiesReader, context: Context) -> IdentityList:
    """Your identities, the newest first."""
    scope = scope_of(tenant.id, PATH, query.filter)
    # One more than wanted tells whether another page follows.
    found = await asyncio.to_thread(context.identities.find, tenant.id, query.before(scope), query.limit + 1)
    page, more = found[: query.limit], len(found) > query.limit
    following = cursor((page[-1].created_at, page[-1].id), scope) if more else None
    return IdentityList(data=[identity_out(identity) for identity in page], next_cursor=following)


@router.get("/{identity_id}", response_model=IdentityOut)
async def look(identity_id: IdentityId, tenant: IdentitiesReader, context: Context) -> IdentityOut:
    """An identity, without its photos: they do not leave the service again."""
    return identity_out(await asyncio.to_thread(context.identities.get, tenant.id, identity_id))


@router.delete("/{identity_id}", status_code=204)
async def delete(identity_id: IdentityId, tenant: IdentitiesWriter, context: Context) -> None:
    """Remove an identity and its photos, at once and for good. Generations that still need them fail: `image_gone`."""
    await asyncio.to_thread(context.identities.delete, tenant.id, identity_id)
    await context.photos.discard(identity_folder(tenant.id, identity_id))


async def _registered(
    context: ApiContext, tenant: str, asked: Registration, key: IdempotencyKey | None
) -> tuple[Identity, bool]:
    """The identity, and whether an earlier request with the key registered it."""
    if (earlier := await _replay(context, tenant, key)) is not None:
        return earlier, True
    identity_id = new_id("idn")
    try:
        new = await _prepared(context, tenant, identity_id, asked)
        return await asyncio.to_thread(context.identities.create, tenant, new, key), False
    except DatabaseError:
        raise  # perhaps it is safely stored and only the answer was lost: then it needs its photos
    except Exception as error:
        await context.photos.discard(identity_folder(tenant, identity_id))
        # Two requests with one key at the same moment: the other was first.
        if isinstance(error, ConflictError) and (earlier := await _replay(context, tenant, key)) is not None:
            return earlier, True
        raise


async def _replay(context: ApiContext, tenant: str, key: IdempotencyKey | None) -> Identity | None:
    return None if key is None else await asyncio.to_thread(context.identities.replay, tenant, key)


async def _prepared(context: ApiContext, tenant: str, identity_id: str, asked: Registration) -> NewIdentity:
    # Photos first: an identity without them would be good for nothing, photos without one are merely removed.
    photos = []
    for index, source in enumerate(asked.sources):
        key = identity_photo_key(tenant, identity_id, index)
        photos.append(IdentityPhoto(key, *await context.photos.store(tenant, source, key)))
    longest_s = context.settings.tenancy.identity_retention_s
    return NewIdentity(
        identity_id,
        asked.fields.label,
        tuple(photos),
        asked.consent.model_dump(exclude_none=True),
        asked.fields.metadata,
        min(asked.fields.retention_s or longest_s, longest_s),
    )


def _key(sent: str | None, asked: Registration) -> IdempotencyKey | None:
    if sent is None:
        return None
    told = [fingerprint_of(source) for source in asked.sources]
    values = {
        **asked.fields.model_dump(),
        "consent": asked.consent.model_dump(),
        "photos": [named for named, _ in told],
    }
    contents = [content for _, given in told for content in given]
    return IdempotencyKey(sent, fingerprint(f"POST {PATH}", values, *contents))
