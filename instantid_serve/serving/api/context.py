"""What the routes work with, built once per replica, and the two dependencies that hand it to them."""

from __future__ import annotations

import asyncio
import dataclasses
from typing import Annotated

from fastapi import Depends, Request

from instantid_serve.errors import UnauthorizedError
from instantid_serve.log_context import note
from instantid_serve.service.jobs import Jobs
from instantid_serve.service.tenancy import Keyring
from instantid_serve.serving.api.intake import Intake
from instantid_serve.serving.api.readiness import Readiness
from instantid_serve.serving.api.schemas import GenerationFields
from instantid_serve.settings import Settings


@dataclasses.dataclass(frozen=True)
class ApiContext:
    """The parts one API replica is made of."""

    settings: Settings
    jobs: Jobs
    keyring: Keyring
    intake: Intake
    readiness: Readiness
    fields: type[GenerationFields]


def _context(request: Request) -> ApiContext:
    context: ApiContext = request.app.state.context
    return context


Context = Annotated[ApiContext, Depends(_context)]


async def _tenant(request: Request, context: Context) -> str:
    sent = request.headers.getlist("authorization")
    if len(sent) != 1:  # with two, a proxy and this service could each believe another one
        raise UnauthorizedError("send one header `Authorization: Bearer <API key>`")
    scheme, _, key = sent[0].partition(" ")
    if scheme.lower() != "bearer" or not key.strip():
        raise UnauthorizedError("send the API key as `Authorization: Bearer <API key>`")
    tenant = await asyncio.to_thread(context.keyring.tenant, key.strip())
    note(tenant=tenant)
    return tenant


Tenant = Annotated[str, Depends(_tenant)]
