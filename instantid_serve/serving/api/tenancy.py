"""Routes of a tenant's own affairs: its API keys, what it used, its limits, and the state of the service."""

from __future__ import annotations

import asyncio
import importlib.metadata
import time
from collections.abc import Collection
from typing import Annotated, Any

from fastapi import APIRouter, Path, Query, Request, Response

from instantid_serve.errors import ForbiddenError
from instantid_serve.serving.api import once
from instantid_serve.serving.api.callers import AnyCaller, KeysReader, KeysWriter, UsageReader
from instantid_serve.serving.api.context import Context
from instantid_serve.serving.api.json_bodies import json_body, read_json
from instantid_serve.serving.api.tenancy_schemas import (
    IssuedKeyOut,
    KeyFields,
    KeyList,
    LimitsOut,
    RotationFields,
    StatusOut,
    UsageOut,
    issued_out,
    key_out,
    limits_out,
    month_out,
    status_out,
)
from instantid_serve.serving.api.throttle import allowance_of
from instantid_serve.settings import TENANT_SCOPES, Scope

router = APIRouter(prefix="/v1", tags=["tenancy"])

# No NUL: PostgreSQL's text cannot hold it, so it could not even be looked for.
KeyId = Annotated[str, Path(max_length=64, pattern=r"^[^\x00]*$", description="The public id of the API key.")]


def makes_key(model: type[KeyFields | RotationFields]) -> dict[str, Any]:
    """The `openapi_extra` of a route that makes a key."""
    return json_body(model) | {"parameters": [once.PARAMETER]}


@router.get("/keys", response_model=KeyList)
async def list_keys(tenant: KeysReader, context: Context) -> KeyList:
    """The tenant's keys. A key itself is shown only by the request that makes it."""
    records = await asyncio.to_thread(context.keys.list, tenant.id)
    return KeyList(data=[key_out(record) for record in records])


@router.post("/keys", status_code=201, response_model=IssuedKeyOut, openapi_extra=makes_key(KeyFields))
async def create_key(request: Request, tenant: KeysWriter, caller: AnyCaller, context: Context) -> IssuedKeyOut:
    """Make a key. It can do no more than the calling one."""
    fields = await read_json(request, KeyFields)
    issued = await asyncio.to_thread(
        context.keys.issue,
        tenant.id,
        granted(fields.scopes, caller.scopes),
        label=fields.label,
        expires_in_s=fields.expires_in_s,
        once=once.once(request, fields),
    )
    return issued_out(issued)


@router.post(
    "/keys/{key_id}/rotate", status_code=201, response_model=IssuedKeyOut, openapi_extra=makes_key(RotationFields)
)
async def rotate_key(
    key_id: KeyId, request: Request, tenant: KeysWriter, caller: AnyCaller, context: Context
) -> IssuedKeyOut:
    """Make a key in the place of another, with its scopes and label. The other goes on for `overlap_s`."""
    fields = await read_json(request, RotationFields)
    issued = await asyncio.to_thread(
        context.keys.rotate,
        tenant.id,
        key_id,
        overlap_s=fields.overlap_s,
        within=caller.scopes,
        once=once.once(request, fields),
    )
    return issued_out(issued)


@router.delete("/keys/{key_id}", status_code=204)
async def revoke_key(key_id: KeyId, tenant: KeysWriter, context: Context) -> Response:
    """End a key. Within five seconds no replica takes it any more."""
    await asyncio.to_thread(context.keys.revoke, tenant.id, key_id)
    return Response(status_code=204)


@router.get("/usage", response_model=UsageOut)
async def usage(
    tenant: UsageReader,
    context: Context,
    months: Annotated[int, Query(ge=1, le=120, description="How many to tell, at most.")] = 12,
) -> UsageOut:
    """What the tenant used, month by month."""
    found = await asyncio.to_thread(context.standing.months, tenant.id, months)
    return UsageOut(data=[month_out(month) for month in found])


@router.get("/limits", response_model=LimitsOut)
async def limits(request: Request, tenant: UsageReader, context: Context) -> LimitsOut:
    """The tenant's limits, and what it uses of each now."""
    load = await asyncio.to_thread(context.standing.load, tenant.id)
    return limits_out(tenant, load, allowance_of(request), time.time())


@router.get("/status", response_model=StatusOut)
async def status(_caller: AnyCaller, context: Context) -> StatusOut:
    """The service as a whole: what waits and who works. A long queue is no fault: `/readyz` tells those."""
    queue = await asyncio.to_thread(context.standing.queue)
    return status_out(importlib.metadata.version("instantid-serve"), queue)


def granted(asked: Collection[Scope] | None, grantable: Collection[str]) -> list[Scope]:
    """The scopes of a new key, in their order. `admin` is never among them: only the config file gives it.

    Raises ForbiddenError when more is asked than may be given.
    """
    allowed = [scope for scope in TENANT_SCOPES if scope in grantable]
    if asked is None:
        return allowed
    if beyond := sorted(set(asked) - set(allowed)):
        raise ForbiddenError("this API key cannot grant that", {"scopes": beyond})
    return [scope for scope in allowed if scope in asked]
