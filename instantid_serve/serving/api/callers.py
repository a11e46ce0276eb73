"""Who may call a route: dependencies that hand it the caller, or refuse."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Annotated

from fastapi import Depends, Request
from fastapi.dependencies.models import Dependant

from instantid_serve.errors import ForbiddenError, SuspendedError, UnauthorizedError
from instantid_serve.log_context import note
from instantid_serve.service.keyring import Caller
from instantid_serve.service.tenants import Tenant
from instantid_serve.serving.api import throttle
from instantid_serve.serving.api.context import ApiContext, Context
from instantid_serve.settings import Scope


def _presented_key(request: Request) -> str:
    sent = request.headers.getlist("authorization")
    if len(sent) != 1:  # with two, a proxy and this service could each believe another one
        raise UnauthorizedError("send one header `Authorization: Bearer <API key>`")
    scheme, _, key = sent[0].partition(" ")
    if scheme.lower() != "bearer" or not key.strip():
        raise UnauthorizedError("send the API key as `Authorization: Bearer <API key>`")
    return key.strip()


async def _known(request: Request, context: ApiContext) -> Caller:
    key = _presented_key(request)
    caller = context.keyring.remembered(key)
    return await asyncio.to_thread(context.keyring.caller, key) if caller is None else caller


async def _caller(request: Request, context: Context) -> Caller:
    try:
        caller = await _known(request, context)
    except UnauthorizedError:
        await throttle.count_failed_login(request, context)
        raise
    await throttle.count_request(request, context, caller.tenant)
    note(tenant=caller.tenant.id)
    if caller.tenant.suspended:
        raise SuspendedError("this tenant is suspended")
    return caller


AnyCaller = Annotated[Caller, Depends(_caller)]


_SCOPES: dict[Callable[..., object], Scope] = {}  # of the dependencies made below


def _with(scope: Scope) -> Callable[[Caller], Awaitable[Tenant]]:
    async def tenant(caller: AnyCaller) -> Tenant:
        if scope not in caller.scopes:
            raise ForbiddenError("this API key may not do that", {"scope": scope})
        return caller.tenant

    _SCOPES[tenant] = scope
    return tenant


def required_scope(route: Dependant) -> Scope | None:
    """The scope that a route's dependencies ask for; None where any key does, or none is needed."""
    waiting = [route]
    while waiting:
        dependency = waiting.pop()
        if dependency.call in _SCOPES:
            return _SCOPES[dependency.call]
        waiting += dependency.dependencies
    return None


# The tenant, for a route that needs the scope.
GenerationsReader = Annotated[Tenant, Depends(_with("generations:read"))]
GenerationsWriter = Annotated[Tenant, Depends(_with("generations:write"))]
IdentitiesReader = Annotated[Tenant, Depends(_with("identities:read"))]
IdentitiesWriter = Annotated[Tenant, Depends(_with("identities:write"))]
WebhooksReader = Annotated[Tenant, Depends(_with("webhooks:read"))]
WebhooksWriter = Annotated[Tenant, Depends(_with("webhooks:write"))]
KeysReader = Annotated[Tenant, Depends(_with("keys:read"))]
KeysWriter = Annotated[Tenant, Depends(_with("keys:write"))]
UsageReader = Annotated[Tenant, Depends(_with("usage:read"))]
Admin = Annotated[Tenant, Depends(_with("admin"))]
