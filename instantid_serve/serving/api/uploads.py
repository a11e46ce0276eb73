"""Routes of uploads: a photo is brought before the request that needs it, past this service where the store allows."""

from __future__ import annotations

import asyncio
import datetime as dt
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Path, Request, Response
from pydantic import BaseModel, ConfigDict, Field

from instantid_serve.errors import BodyTooLargeError, InvalidRequestError
from instantid_serve.service.idempotency import IdempotencyKey, fingerprint
from instantid_serve.service.results import upload_folder, upload_key
from instantid_serve.service.uploads import LINK_S, Upload
from instantid_serve.serving.api.callers import GenerationsReader, GenerationsWriter
from instantid_serve.serving.api.context import ApiContext, Context
from instantid_serve.serving.api.job_views import time_of
from instantid_serve.serving.api.json_bodies import json_body, read_json
from instantid_serve.serving.api.preferences import REPLAYED, IdempotencyKeySent

PATH = "/v1/uploads"
router = APIRouter(prefix=PATH, tags=["uploads"])

# No NUL: PostgreSQL's text cannot hold it, so it could not even be looked for.
UploadId = Annotated[
    str, Path(max_length=64, pattern=r"^[^\x00]*$", description="The id that creating the upload returned.")
]
_HEADERS: dict[str, Any] = {
    "Location": {"schema": {"type": "string"}, "description": "Where the upload is."},
    REPLAYED: {"schema": {"type": "string", "enum": ["true"]}, "description": "An earlier request created it."},
}


class UploadFields(BaseModel):
    """What is going to be uploaded. The type is not believed: what comes is looked at when it is used."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    media_type: Literal["image/jpeg", "image/png", "image/webp"]
    size_bytes: Annotated[int, Field(ge=1)]


class UploadOut(BaseModel):
    """An upload. ``uploaded``: whether its bytes are there, so that ``upload_id`` can name it until ``expires_at``."""

    id: str
    object: Literal["upload"] = "upload"
    media_type: str
    size_bytes: int
    uploaded: bool
    created_at: dt.datetime
    expires_at: dt.datetime


class NewUploadOut(UploadOut):
    """An upload to be filled: by a ``method`` request to ``url`` with all of ``headers`` and the bytes as its body.

    ``url`` is a path on this server, which needs the API key, or an address of the store, which must not get it and
    works until ``url_expires_at``.
    """

    method: Literal["PUT"] = "PUT"
    url: str
    headers: dict[str, str]
    url_expires_at: dt.datetime


@router.post(
    "",
    status_code=201,
    response_model=NewUploadOut,
    responses={201: {"headers": _HEADERS}},
    openapi_extra=json_body(UploadFields),
)
async def create(
    request: Request, tenant: GenerationsWriter, context: Context, response: Response, sent_key: IdempotencyKeySent
) -> NewUploadOut:
    """Make a place for a photo. It can be filled once, and then named by any number of requests until it expires."""
    fields = await read_json(request, UploadFields)
    limit = context.settings.api.max_photo_bytes
    if fields.size_bytes > limit:
        detail = f"a photo must be at most {limit} bytes"
        raise InvalidRequestError(detail, {"errors": [{"pointer": "/size_bytes", "detail": detail}]})
    key = None if sent_key is None else IdempotencyKey(sent_key, fingerprint(f"POST {PATH}", fields.model_dump()))
    upload, replayed = await asyncio.to_thread(
        context.uploads.create,
        tenant.id,
        fields.media_type,
        fields.size_bytes,
        kept_s=context.settings.tenancy.upload_retention_s,
        key=key,
    )
    response.headers["Location"] = f"{PATH}/{upload.id}"
    if replayed:
        response.headers[REPLAYED] = "true"
    return await asyncio.to_thread(_to_be_filled, context, tenant.id, upload)


@router.get("/{upload_id}", response_model=UploadOut)
async def look(upload_id: UploadId, tenant: GenerationsReader, context: Context) -> UploadOut:
    """An upload as it stands."""
    upload = await asyncio.to_thread(context.uploads.get, tenant.id, upload_id)
    return UploadOut(**await asyncio.to_thread(_told, context, tenant.id, upload))


@router.put("/{upload_id}/content", status_code=204, openapi_extra={"requestBody": {"content": {"image/*": {}}}})
async def fill(upload_id: UploadId, request: Request, tenant: GenerationsWriter, context: Context) -> None:
    """Bring the bytes: exactly as many as were announced. The same ones again are fine, others are refused."""
    upload = await asyncio.to_thread(context.uploads.get, tenant.id, upload_id)
    async with context.intake.room:
        data = await _exactly(request, upload.size_bytes)
        await asyncio.to_thread(context.store.put, upload_key(tenant.id, upload.id), data, upload.media_type)


@router.delete("/{upload_id}", status_code=204)
async def delete(upload_id: UploadId, tenant: GenerationsWriter, context: Context) -> None:
    """Remove an upload and its bytes. What was made of them stays."""
    upload = await asyncio.to_thread(context.uploads.get, tenant.id, upload_id)
    await asyncio.to_thread(context.uploads.delete, tenant.id, upload.id)
    await context.photos.discard(upload_folder(tenant.id, upload.id))


async def _exactly(request: Request, size_bytes: int) -> bytes:
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > size_bytes:
            raise BodyTooLargeError(f"{size_bytes} bytes were announced", {"size_bytes": size_bytes})
    if len(body) < size_bytes:
        raise InvalidRequestError(f"{size_bytes} bytes were announced", {"size_bytes": size_bytes})
    return bytes(body)


def _to_be_filled(context: ApiContext, tenant: str, upload: Upload) -> NewUploadOut:
    told = _told(context, tenant, upload)
    kept_s = upload.expires_at - upload.created_at
    link = context.store.upload_link(
        upload_key(tenant, upload.id),
        media_type=upload.media_type,
        size_bytes=upload.size_bytes,
        expires_s=min(LINK_S, kept_s),
    )
    if link is None:
        headers = {"Content-Type": upload.media_type}
        return NewUploadOut(
            **told, url=f"{PATH}/{upload.id}/content", headers=headers, url_expires_at=told["expires_at"]
        )
    until = dt.datetime.now(dt.UTC) + dt.timedelta(seconds=link.expires_s)
    return NewUploadOut(**told, url=link.url, headers=dict(link.headers), url_expires_at=until)


def _told(context: ApiContext, tenant: str, upload: Upload) -> dict[str, Any]:
    return {
        "id": upload.id,
        "media_type": upload.media_type,
        "size_bytes": upload.size_bytes,
        "uploaded": context.store.size(upload_key(tenant, upload.id)) is not None,
        "created_at": time_of(upload.created_at),
        "expires_at": time_of(upload.expires_at),
    }
