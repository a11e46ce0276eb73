"""Entries 197 and 198: what is another tenant's, ids and keys that are none, and addresses of webhooks."""

from __future__ import annotations

import json
from collections.abc import Iterator

from corpus.entry import ACME, GENERATIONS, JSON_TYPE, Entry, Request, generation, refused, taken
from corpus.urls import NAMED, WRITTEN

# Every route that names a thing, with another tenant's.
OTHERS = [
    ("GET", "/v1/generations/<<other_job>>"),
    ("DELETE", "/v1/generations/<<other_job>>"),
    ("POST", "/v1/generations/<<other_job>>/cancel"),
    ("GET", "/v1/generations/<<other_job>>/images/0"),
    ("GET", "/v1/generations/<<other_job>>/events"),
    ("GET", "/v1/batches/<<other_batch>>"),
    ("POST", "/v1/batches/<<other_batch>>/cancel"),
    ("GET", "/v1/uploads/<<other_upload>>"),
    ("PUT", "/v1/uploads/<<other_upload>>/content"),
    ("DELETE", "/v1/uploads/<<other_upload>>"),
    ("GET", "/v1/identities/<<other_identity>>"),
    ("DELETE", "/v1/identities/<<other_identity>>"),
    ("GET", "/v1/webhooks/<<other_webhook>>"),
    ("PATCH", "/v1/webhooks/<<other_webhook>>"),
    ("DELETE", "/v1/webhooks/<<other_webhook>>"),
    ("GET", "/v1/webhooks/<<other_webhook>>/secret"),
    ("POST", "/v1/webhooks/<<other_webhook>>/rotate-secret"),
    ("POST", "/v1/webhooks/<<other_webhook>>/test"),
    ("GET", "/v1/webhooks/<<other_webhook>>/deliveries"),
    ("POST", "/v1/webhooks/<<other_webhook>>/deliveries/<<other_delivery>>/redeliver"),
    ("DELETE", "/v1/keys/<<other_key>>"),
    ("POST", "/v1/keys/<<other_key>>/rotate"),
]
NO_IDS = [
    ("id with another prefix", "/v1/generations/<<own_batch>>", 404, "not_found"),
    ("id of another kind", "/v1/batches/<<own_job>>", 404, "not_found"),
    ("id of 10 KB", "/v1/generations/gen_" + "x" * 10_240, 422, "invalid_request"),
    ("id with NUL", "/v1/generations/gen_%00", 422, "invalid_request"),
    ("two dots", "/v1/generations/..", 404, "not_found"),
    ("two escaped dots", "/v1/generations/%2e%2e", 404, "not_found"),
    ("dots and a slash", "/v1/generations/..%2fadmin%2ftenants", 404, "not_found"),
    ("forged cursor", "/v1/generations?cursor=eyJ0IjoxfQ", 422, "invalid_request"),
    ("cursor of another tenant", "/v1/generations?cursor=<<other_cursor>>", 422, "invalid_request"),
    ("cursor of another filter", "/v1/generations?status=failed&cursor=<<own_cursor>>", 422, "invalid_request"),
]
NO_KEYS = {
    "no key": (),
    "revoked key": (("Authorization", "Bearer <<revoked_key>>"),),
    "expired key": (("Authorization", "Bearer <<expired_key>>"),),
    "key of elsewhere": (("Authorization", "Bearer isk_test_00000000000000000000"),),
    "key that is another's hash": (("Authorization", "Bearer " + "0" * 64),),
    "key without a scheme": (("Authorization", "key-of-acme"),),
    "two keys": (ACME, ("Authorization", "Bearer key-of-other")),
}


def entries() -> Iterator[Entry]:
    for method, target in OTHERS:
        body = b"{}" if method in {"PATCH", "POST"} else b""
        yield refused(197, f"{method} of another's {target}", Request(method, target, body=body), "not_found", 404)
    yield from references()
    for name, target, status, code in NO_IDS:
        yield refused(197, name, Request("GET", target, (ACME,)), code, status)
    for name, headers in NO_KEYS.items():
        yield refused(197, name, Request("GET", "/v1/generations", headers), "unauthorized", 401)
    in_query = Request("GET", "/v1/generations?key=key-of-acme&api_key=key-of-acme", ())
    yield refused(197, "key in the query", in_query, "unauthorized", 401)
    yield from webhooks()


def references() -> Iterator[Entry]:
    """Another tenant's things, named in a body or a header."""
    yield refused(197, "another's upload", generation(image=..., upload_id="<<other_upload>>"), "upload_missing")
    yield refused(197, "another's identity", generation(image=..., identity_id="<<other_identity>>"))
    header = ("Last-Event-ID", "<<other_event>>")
    events = Request("GET", "/v1/generations/<<own_job>>/events", (ACME, header))
    yield refused(197, "another's event", events)
    keyed = (ACME, JSON_TYPE, ("Idempotency-Key", "used-by-other"))
    yield taken(197, "another's idempotency key", Request(headers=keyed, body=generation().body))
    filtered = Request("GET", f"{GENERATIONS}?batch_id=<<other_batch>>", (ACME,))
    yield taken(197, "another's batch as a filter", filtered, 200)


def webhooks() -> Iterator[Entry]:
    """Addresses of webhooks. Names are looked up when something is delivered, not when they are told."""
    for number, urls in WRITTEN.items():
        for url in urls:
            yield refused(198, f"{number} {url}", _webhook(url.replace("http:", "https:")), "url_blocked")
    for urls in NAMED.values():
        yield refused(198, f"without TLS {urls[0]}", _webhook(urls[0].replace("https:", "http:")), "url_blocked")
    yield refused(198, "our own address", _webhook("https://127.0.0.1:<<api_port>>/v1/webhooks"), "url_blocked")
    yield refused(198, "line break", _webhook("https://public.example/\r\nX-Header: 1"), "url_blocked")
    yield refused(198, "address of 64 KB", _webhook("https://public.example/" + "a" * 65_536))
    yield refused(198, "address of one generation", generation(webhook_url="http://169.254.169.254/"), "url_blocked")


def _webhook(url: str) -> Request:
    return Request("POST", "/v1/webhooks", body=json.dumps({"url": url}).encode())
