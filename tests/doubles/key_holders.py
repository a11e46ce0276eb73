"""Clients of the application that hold API keys of its database."""

from __future__ import annotations

import hashlib

import httpx2

ADMIN = "key-of-the-operators"


def client_with(app, key, address="192.0.2.1"):
    """A client that sends this key, from this address."""
    transport = httpx2.ASGITransport(app, client=(address, 40000))
    headers = {"Authorization": f"Bearer {key}"}
    return httpx2.AsyncClient(transport=transport, base_url="http://test", headers=headers)


def issued(context, tenant, scopes, **details):
    """A new key of a tenant that is there if need be: the record, and the key."""
    context.tenants.ensure(tenant)
    return context.keys.issue(tenant, scopes, **details)


def configured_admin():
    """The operators' key as the config file has it."""
    sha256 = hashlib.sha256(ADMIN.encode()).hexdigest()
    return {"tenant": "operators", "sha256": sha256, "scopes": ["admin"]}
