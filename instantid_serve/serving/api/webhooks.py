"""Routes of webhooks: the endpoints, their secrets, and what was delivered to them."""

from __future__ import annotations

import asyncio
from typing import Annotated, Any

from fastapi import APIRouter, Path, Query, Request, Response

from instantid_serve.serving.api import once
from instantid_serve.serving.api.callers import WebhooksReader, WebhooksWriter
from instantid_serve.serving.api.context import Context
from instantid_serve.serving.api.json_bodies import json_body, read_json
from instantid_serve.serving.api.webhook_schemas import (
    DeliveryList,
    DeliveryOut,
    NoFields,
    RotationFields,
    SecretsOut,
    WebhookChanges,
    WebhookFields,
    WebhookList,
    WebhookOut,
    WebhookWithSecretOut,
    delivery_out,
    secrets_out,
    webhook_out,
    webhook_with_secret_out,
)

router = APIRouter(prefix="/v1/webhooks", tags=["webhooks"])

# No NUL: PostgreSQL's text cannot hold it, so it could not even be looked for.
WebhookId = Annotated[
    str, Path(max_length=64, pattern=r"^[^\x00]*$", description="The id that creating the webhook returned.")
]
DeliveryId = Annotated[str, Path(max_length=64, pattern=r"^[^\x00]*$", description="A delivery's id.")]
_KEYED: dict[str, Any] = {
    "parameters": [
        once.PARAMETER
        | {"description": "A second request with it is answered with what the first made, and `Idempotent-Replayed`."}
    ]
}


@router.post(
    "", status_code=201, response_model=WebhookWithSecretOut, openapi_extra={**json_body(WebhookFields), **_KEYED}
)
async def create_webhook(
    request: Request, tenant: WebhooksWriter, context: Context, response: Response
) -> WebhookWithSecretOut:
    """Be told of your generations at a URL; the answer holds the secret that signs what is sent there."""
    fields = await read_json(request, WebhookFields)
    key = once.once(request, fields)
    made = await asyncio.to_thread(
        context.webhooks.create, tenant.id, fields.url, fields.events, fields.description, key
    )
    response.headers["Location"] = f"{router.prefix}/{made.endpoint.id}"
    _tell_replay(response, replayed=made.replayed)
    return webhook_with_secret_out(made.endpoint)


@router.get("", response_model=WebhookList)
async def list_webhooks(tenant: WebhooksReader, context: Context) -> WebhookList:
    """Your endpoints."""
    return WebhookList(data=[webhook_out(found) for found in await asyncio.to_thread(context.webhooks.list, tenant.id)])


@router.get("/secret", response_model=SecretsOut)
async def show_tenant_secret(tenant: WebhooksWriter, context: Context) -> SecretsOut:
    """The secret that signs the webhooks that single generations name (`webhook_url`)."""
    return secrets_out(await asyncio.to_thread(context.webhooks.live_tenant_secrets, tenant.id))


@router.post("/rotate-secret", response_model=SecretsOut, openapi_extra=json_body(RotationFields))
async def rotate_tenant_secret(request: Request, tenant: WebhooksWriter, context: Context) -> SecretsOut:
    """Change that secret. For a while the old one signs, too."""
    fields = await read_json(request, RotationFields)
    return secrets_out(await asyncio.to_thread(context.webhooks.rotate_tenant_secret, tenant.id, fields.overlap_s))


@router.get("/{webhook_id}", response_model=WebhookOut)
async def show_webhook(webhook_id: WebhookId, tenant: WebhooksReader, context: Context) -> WebhookOut:
    """An endpoint as it stands."""
    return webhook_out(await asyncio.to_thread(context.webhooks.get, tenant.id, webhook_id))


@router.patch("/{webhook_id}", response_model=WebhookOut, openapi_extra=json_body(WebhookChanges))
async def change_webhook(
    webhook_id: WebhookId, request: Request, tenant: WebhooksWriter, context: Context
) -> WebhookOut:
    """Set what the body names, and nothing else."""
    changes = (await read_json(request, WebhookChanges)).model_dump(exclude_unset=True)
    return webhook_out(await asyncio.to_thread(context.webhooks.change, tenant.id, webhook_id, changes))


@router.delete("/{webhook_id}", status_code=204, response_class=Response)
async def delete_webhook(webhook_id: WebhookId, tenant: WebhooksWriter, context: Context) -> Response:
    """Remove an endpoint, what waits to be delivered to it, and its log."""
    await asyncio.to_thread(context.webhooks.delete, tenant.id, webhook_id)
    return Response(status_code=204)


@router.get("/{webhook_id}/secret", response_model=SecretsOut)
async def show_secret(webhook_id: WebhookId, tenant: WebhooksWriter, context: Context) -> SecretsOut:
    """The secret that signs what is sent to an endpoint."""
    return secrets_out(await asyncio.to_thread(context.webhooks.live_secrets, tenant.id, webhook_id))


@router.post(
    "/{webhook_id}/rotate-secret",
    response_model=WebhookWithSecretOut,
    openapi_extra={**json_body(RotationFields), **_KEYED},
)
async def rotate_secret(
    webhook_id: WebhookId, request: Request, tenant: WebhooksWriter, context: Context, response: Response
) -> WebhookWithSecretOut:
    """Change an endpoint's secret. For a while the old one signs, too, so that no delivery is refused meanwhile."""
    fields = await read_json(request, RotationFields)
    key = once.once(request, fields)
    made = await asyncio.to_thread(context.webhooks.rotate, tenant.id, webhook_id, fields.overlap_s, key)
    _tell_replay(response, replayed=made.replayed)
    return webhook_with_secret_out(made.endpoint)


@router.post("/{webhook_id}/test", status_code=202, response_model=DeliveryOut, openapi_extra=_KEYED)
async def test_webhook(
    webhook_id: WebhookId, request: Request, tenant: WebhooksWriter, context: Context, response: Response
) -> DeliveryOut:
    """Send an event of the type `webhook.test`, whatever types the endpoint wants."""
    key = once.once(request, NoFields())
    tested = await asyncio.to_thread(context.deliveries.test, tenant.id, webhook_id, key)
    _tell_replay(response, replayed=tested.replayed)
    return delivery_out(tested.delivery)


@router.get("/{webhook_id}/deliveries", response_model=DeliveryList)
async def list_deliveries(
    webhook_id: WebhookId,
    tenant: WebhooksReader,
    context: Context,
    cursor: Annotated[str | None, Query(pattern=r"^whd_[0-9a-v]{26}$", description="`next_cursor` of a page.")] = None,
    limit: Annotated[int, Query(ge=1, le=100)] = 50,
) -> DeliveryList:
    """What was sent to an endpoint lately, or waits to be, with every attempt."""
    found = await asyncio.to_thread(context.deliveries.find, tenant.id, webhook_id, cursor, limit + 1)
    page = found[:limit]
    following = page[-1].id if len(found) > limit else None
    return DeliveryList(data=[delivery_out(delivery) for delivery in page], next_cursor=following)


@router.post("/{webhook_id}/deliveries/{delivery_id}/redeliver", status_code=202, response_model=DeliveryOut)
async def redeliver(
    webhook_id: WebhookId, delivery_id: DeliveryId, tenant: WebhooksWriter, context: Context
) -> DeliveryOut:
    """Send a delivery again, now, with the same `webhook-id`."""
    return delivery_out(await asyncio.to_thread(context.deliveries.redeliver, tenant.id, webhook_id, delivery_id))


def _tell_replay(response: Response, *, replayed: bool) -> None:
    if replayed:
        response.headers["Idempotent-Replayed"] = "true"
