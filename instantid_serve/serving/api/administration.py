"""Routes of operators: tenants, their keys and limits. A tenant cannot be deleted, only suspended."""

from __future__ import annotations

import asyncio
from typing import Annotated

from fastapi import APIRouter, Path, Query, Request, Response

from instantid_serve.errors import ConflictError
from instantid_serve.serving.api import once
from instantid_serve.serving.api.callers import Admin
from instantid_serve.serving.api.context import Context
from instantid_serve.serving.api.defaults import check_defaults
from instantid_serve.serving.api.json_bodies import json_body, read_json
from instantid_serve.serving.api.tenancy import KeyId, granted, makes_key
from instantid_serve.serving.api.tenancy_schemas import (
    IssuedKeyOut,
    KeyFields,
    KeyList,
    NewTenantOut,
    RotationFields,
    TenantChanges,
    TenantFields,
    TenantList,
    TenantOut,
    UsageOut,
    issued_out,
    key_out,
    month_out,
    tenant_values,
)
from instantid_serve.settings import TENANT_SCOPES

router = APIRouter(prefix="/v1/admin/tenants", tags=["administration"])

TenantId = Annotated[str, Path(max_length=64, pattern=r"^[^\x00]*$", description="The tenant's name.")]


@router.post("", status_code=201, response_model=NewTenantOut, openapi_extra=json_body(TenantFields))
async def create_tenant(request: Request, _admin: Admin, context: Context) -> NewTenantOut:
    """Make a tenant and its first key, which may do all that a tenant may and is shown only now.

    A name that is taken is refused with 409, so a repeated request makes nothing twice. Who lost the answer makes
    another key.
    """
    fields = await read_json(request, TenantFields)
    check_defaults(fields.defaults, context.fields)
    try:
        tenant = await asyncio.to_thread(context.tenants.create, fields.id, fields.model_dump(exclude={"id"}))
    except ConflictError:
        raise ConflictError("there is a tenant of that name", {"id": fields.id}) from None
    issued = await asyncio.to_thread(context.keys.issue, tenant.id, TENANT_SCOPES, label="first")
    return NewTenantOut(**tenant_values(tenant), key=issued_out(issued))


@router.get("", response_model=TenantList)
async def list_tenants(
    _admin: Admin,
    context: Context,
    cursor: Annotated[str, Query(max_length=64, pattern=r"^[^\x00]*$", description="`next_cursor` of a page.")] = "",
    limit: Annotated[int, Query(ge=1, le=100)] = 50,
) -> TenantList:
    """All tenants, by name."""
    found = await asyncio.to_thread(context.tenants.list, cursor, limit + 1)
    page = found[:limit]
    following = page[-1].id if len(found) > limit else None
    return TenantList(data=[TenantOut(**tenant_values(tenant)) for tenant in page], next_cursor=following)


@router.get("/{tenant_id}", response_model=TenantOut)
async def show_tenant(tenant_id: TenantId, _admin: Admin, context: Context) -> TenantOut:
    """A tenant with the limits that hold for it."""
    return TenantOut(**tenant_values(await asyncio.to_thread(context.tenants.get, tenant_id)))


@router.patch("/{tenant_id}", response_model=TenantOut, openapi_extra=json_body(TenantChanges))
async def change_tenant(tenant_id: TenantId, request: Request, _admin: Admin, context: Context) -> TenantOut:
    """Set what the body names, and nothing else. It holds on every replica within five seconds."""
    fields = await read_json(request, TenantChanges)
    check_defaults(fields.defaults, context.fields)
    changes = fields.model_dump(exclude_unset=True)
    return TenantOut(**tenant_values(await asyncio.to_thread(context.tenants.change, tenant_id, changes)))


@router.get("/{tenant_id}/keys", response_model=KeyList)
async def list_keys(tenant_id: TenantId, _admin: Admin, context: Context) -> KeyList:
    """A tenant's keys, without the keys themselves."""
    await asyncio.to_thread(context.tenants.get, tenant_id)
    records = await asyncio.to_thread(context.keys.list, tenant_id)
    return KeyList(data=[key_out(record) for record in records])


@router.post("/{tenant_id}/keys", status_code=201, response_model=IssuedKeyOut, openapi_extra=makes_key(KeyFields))
async def create_key(tenant_id: TenantId, request: Request, _admin: Admin, context: Context) -> IssuedKeyOut:
    """Make a key for a tenant."""
    fields = await read_json(request, KeyFields)
    await asyncio.to_thread(context.tenants.get, tenant_id)
    issued = await asyncio.to_thread(
        context.keys.issue,
        tenant_id,
        granted(fields.scopes, TENANT_SCOPES),
        label=fields.label,
        expires_in_s=fields.expires_in_s,
        once=once.once(request, fields, space="admin"),
    )
    return issued_out(issued)


@router.post(
    "/{tenant_id}/keys/{key_id}/rotate",
    status_code=201,
    response_model=IssuedKeyOut,
    openapi_extra=makes_key(RotationFields),
)
async def rotate_key(
    tenant_id: TenantId, key_id: KeyId, request: Request, _admin: Admin, context: Context
) -> IssuedKeyOut:
    """Make a key in the place of a tenant's other one, which goes on for `overlap_s`."""
    fields = await read_json(request, RotationFields)
    repeated = once.once(request, fields, space="admin")
    issued = await asyncio.to_thread(context.keys.rotate, tenant_id, key_id, overlap_s=fields.overlap_s, once=repeated)
    return issued_out(issued)


@router.delete("/{tenant_id}/keys/{key_id}", status_code=204)
async def revoke_key(tenant_id: TenantId, key_id: KeyId, _admin: Admin, context: Context) -> Response:
    """End a tenant's key. Within five seconds no replica takes it any more."""
    await asyncio.to_thread(context.keys.revoke, tenant_id, key_id)
    return Response(status_code=204)


@router.get("/{tenant_id}/usage", response_model=UsageOut)
async def usage(
    tenant_id: TenantId,
    _admin: Admin,
    context: Context,
    months: Annotated[int, Query(ge=1, le=120, description="How many to tell, at most.")] = 12,
) -> UsageOut:
    """What a tenant used, month by month."""
    await asyncio.to_thread(context.tenants.get, tenant_id)
    found = await asyncio.to_thread(context.standing.months, tenant_id, months)
    return UsageOut(data=[month_out(month) for month in found])
