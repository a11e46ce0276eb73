"""Three tenants with one of everything each, on one HTTP application, and requests that name things of others."""

import base64
import dataclasses
import hashlib
import io

import httpx2
from doubles.service import image
from PIL import Image

from instantid_serve.service.fairness import Room
from instantid_serve.service.ids import new_id
from instantid_serve.service.results import image_key

TENANTS = ("acme", "other", "third")
KEYS = {tenant: f"key-of-{tenant}" for tenant in TENANTS}
CONFIGURED = [{"tenant": t, "sha256": hashlib.sha256(key.encode()).hexdigest()} for t, key in KEYS.items()]
CHANGING = ("date", "ratelimit", "x-request-id", "content-length")

# A parameter of a path -> what it names. A route with another one fails the matrix by name.
NAMES = {
    "job_id": "generation",
    "batch_id": "batch",
    "identity_id": "identity",
    "upload_id": "upload",
    "webhook_id": "webhook",
    "delivery_id": "delivery",
    "key_id": "key",
}
KINDS = {"generation": "gen", "batch": "bat", "identity": "idn", "upload": "upl", "webhook": "whk", "delivery": "whd"}
BODIES = {  # what a request must say so that only its ids can be at fault
    ("patch", "/v1/webhooks/{webhook_id}"): {"description": "mine"},
    ("post", "/v1/webhooks/{webhook_id}/rotate-secret"): {"overlap_s": 60},
    ("post", "/v1/keys/{key_id}/rotate"): {"overlap_s": 60},
}


def photo():
    stream = io.BytesIO()
    Image.new("RGB", (300, 400), (120, 90, 60)).save(stream, "JPEG")
    return base64.b64encode(stream.getvalue()).decode()


def client_of(app, tenant):
    transport = httpx2.ASGITransport(app)
    headers = {"Authorization": f"Bearer {KEYS[tenant]}"}
    return httpx2.AsyncClient(transport=transport, base_url="http://test", headers=headers)


async def furnish(app, context, tenant):
    """Give the tenant one of everything; ids by kind."""
    async with client_of(app, tenant) as http:

        async def made(path, body, **headers):
            answer = await http.post(path, json=body, headers=headers)
            assert answer.status_code in (201, 202), answer.text
            return answer.json()["id"]

        picture = {"prompt": f"of {tenant}", "image": photo()}
        ids = {
            "webhook": await made("/v1/webhooks", {"url": "https://example.com/hook"}),
            "generation": await made("/v1/generations", picture, **{"Idempotency-Key": "the-same-for-all"}),
            "identity": await made("/v1/identities", {"images": [photo()], "consent": {"given": True, "version": "1"}}),
            "upload": await made("/v1/uploads", {"media_type": "image/jpeg", "size_bytes": 5}),
            "batch": await made("/v1/batches", {"items": [picture]}),
            "key": context.keys.issue(tenant, ["generations:read"]).record.id,
        }
        _finish(context, tenant, ids["generation"])
        deliveries = (await http.get(f"/v1/webhooks/{ids['webhook']}/deliveries")).json()["data"]
        return ids | {"delivery": deliveries[0]["id"]}


def _finish(context, tenant, job_id):
    """A worker makes the job's picture."""
    claims = context.queue.claim("w", Room(100), 600.0)
    (claim,) = [claim for claim in claims if claim.job.id == job_id]
    key = image_key(tenant, job_id, claim.fence, 0, "png")
    context.store.put(key, f"the picture of {tenant}".encode(), "image/png")
    context.queue.settle_succeeded(job_id, claim.fence, [dataclasses.replace(image(), key=key)], {})


def unknown_ids():
    """Well-formed ids that nothing has."""
    return {kind: new_id(prefix) for kind, prefix in KINDS.items()} | {"key": "AAAAAAAAAAAA"}


def operations(app):
    """Method, path and path parameters of every operation that names something, operators' ones apart."""
    for path, methods in app.openapi()["paths"].items():
        for method, operation in methods.items():
            names = [p["name"] for p in operation.get("parameters", []) if p["in"] == "path"]
            if names and not path.startswith("/v1/admin/"):
                yield method, path, names


def concrete(path, names, ids):
    """The path with these ids; ``index`` is the first picture's."""
    for name in names:
        path = path.replace(f"{{{name}}}", "0" if name == "index" else ids[NAMES[name]])
    return path


async def answer_to(http, method, path, names, ids):
    """What an answer says, less what no two answers share; ids are replaced by what they name."""
    content = {"json": BODIES[method, path]} if (method, path) in BODIES else {}
    if method == "put":
        content = {"content": b"photo", "headers": {"Content-Type": "image/jpeg"}}
    answer = await http.request(method, concrete(path, names, ids), **content)
    body = answer.text
    if "json" in answer.headers.get("content-type", ""):
        told = answer.json()
        told.pop("request_id", None)
        body = repr(told)
    for kind, value in ids.items():
        body = body.replace(value, f"<{kind}>")
    headers = {name: value for name, value in answer.headers.items() if name not in CHANGING}
    return answer.status_code, body, headers


async def belongings(app, tenant, ids):
    """All that a tenant sees of its own things."""
    async with client_of(app, tenant) as http:
        seen = {}
        for method, path, names in operations(app):
            if method == "get" and not path.endswith("/events"):
                seen[path] = (await http.get(concrete(path, names, ids))).text
        for path in ("/v1/generations", "/v1/batches", "/v1/identities", "/v1/webhooks", "/v1/keys", "/v1/usage"):
            seen[path] = (await http.get(path)).text
        return seen
